from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_demonstration_is_bit_exact_and_pays(tmp_path):
    command = [sys.executable, "-c", "from hwgen.cli import main; main()", "demo", "--json", "--out", tmp_path / "demo"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["images"] >= 200 and result["bit_exact"] is True
    assert result["accuracy_dense"] >= 0.96
    assert result["accuracy_sparse"] >= result["accuracy_dense"] - 0.02
    assert result["accuracy_hardware"] >= result["accuracy_sparse"] - 0.01
    # 32 * 4 + 64 * 36 + 128 * 128 + 10 * 128
    assert result["nonzeros"] == 20_096
    work = {name: mode["cycles_times_multipliers"] for name, mode in result["modes"].items()}
    assert list(work) == ["dense", "sparse-dense", "sparse-sparse"]
    assert work["sparse-sparse"] < work["sparse-dense"] < work["dense"]
    assert work["sparse-sparse"] < work["dense"] / 5
    assert result["modes"]["dense"]["utilisation"] >= 0.7
    for mode in result["modes"].values():
        assert mode["cycles_per_word"] == mode["cycles_planned"]
        assert mode["multipliers"] <= 156
        shutil.rmtree(mode["bundle"])
