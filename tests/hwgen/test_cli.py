from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from hwgen.cli import main

MODEL = """
import torch
from torch import nn
from hwgen.nn import KWinners

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), KWinners(k=2), nn.Linear(8, 3))

ready = make()
number = 3
def broken():
    raise RuntimeError("no weights\\nhere")
def wrong():
    return [1]
"""


@pytest.fixture
def hwgen(capsys):
    """Runs a command in this process: (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model's file, calibration data, a packed network and a bundle."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "net.py").write_text(MODEL)
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32))
    for arguments in (
        ["pack", f"{folder}/net.py:make", "--calibration", f"{folder}/x.npy", "--out", f"{folder}/net.hwpack"],
        ["generate", f"{folder}/net.hwpack", "--out", f"{folder}/bundle", "--mode", "sparse-sparse"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
    return folder


def one_line(err: str) -> str:
    """The error: the last line, after any progress; there is no traceback."""
    assert "Traceback" not in err
    last = err.rstrip("\n").splitlines()[-1]
    assert last.startswith("hwgen: ")
    return last


@pytest.mark.parametrize("command", [None, "demo", "pack", "plan", "generate", "simulate", "run", "report"])
def test_every_command_has_help(hwgen, command):
    code, out, _ = hwgen(*([command] if command else []), "--help")
    assert code == 0
    assert "Usage" in out
    if command:
        assert "--json" in out


def test_the_package_and_its_command_line_import_lightly():
    script = (
        "import sys, hwgen, hwgen.cli\n"
        "heavy = {'torch', 'amaranth', 'numba', 'sklearn', 'scipy', 'pyosys'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import hwgen as h\n"
        "assert callable(h.pack) and callable(h.load) and callable(h.generate) and callable(h.make_plan)\n"
        "assert 'torch' not in sys.modules and 'amaranth' not in sys.modules\n"
        "assert h.plan.__name__ == 'hwgen.plan'\n"
        "assert not hasattr(h, 'nothing')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("name", ["make", "ready"])
def test_pack_takes_a_function_or_a_module(hwgen, folder, tmp_path, name):
    out = tmp_path / "net.hwpack"
    code, text, err = hwgen(
        "pack", f"{folder}/net.py:{name}", "--calibration", folder / "x.npy", "--out", out, "--json"
    )
    assert code == 0, err
    figures = json.loads(text)
    # 6 * 8 and 8 * 3 weights, none of them pruned.
    assert [layer["nonzeros"] for layer in figures["layers"]] == [48, 24]
    assert figures["nonzeros"] == 72
    assert out.read_bytes() == (folder / "net.hwpack").read_bytes()


def test_pack_takes_an_importable_module(hwgen, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    code, _, err = hwgen("pack", "net:make", "--calibration", "x.npy", "--out", tmp_path / "net.hwpack")
    assert code == 0, err


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("net.py", "must be file.py:callable or module:callable"),
        (":make", "must be file.py:callable"),
        ("missing.py:make", "there is no file"),
        ("missing_module:make", "cannot import missing_module"),
        ("net.py:nothing", "has no 'nothing'"),
        ("net.py:number", "must be a function that returns a torch.nn.Module"),
        ("net.py:broken", "broken() failed: RuntimeError: no weights"),
        ("net.py:wrong", "returned a list, not a torch.nn.Module"),
    ],
)
def test_a_model_that_cannot_be_made_is_one_line(hwgen, folder, tmp_path, monkeypatch, model, message):
    monkeypatch.chdir(folder)
    code, out, err = hwgen("pack", model, "--calibration", "x.npy", "--out", tmp_path / "net.hwpack")
    assert (code, out) == (2, "")
    assert message in one_line(err)
    assert not (tmp_path / "net.hwpack").exists()


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_calibration_is_never_unpickled(hwgen, folder, tmp_path):
    trap = Trap(str(tmp_path / "sprung"))
    np.save(tmp_path / "objects.npy", np.array([trap], dtype=object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no numbers")
    np.save(tmp_path / "strings.npy", np.array(["a"]))
    for name in ("objects.npy", "text.npy", "strings.npy", "missing.npy"):
        code, _, err = hwgen("pack", f"{folder}/net.py:make", "--calibration", tmp_path / name)
        assert code == 2
        assert name in one_line(err)
    assert not (tmp_path / "sprung").exists()


def test_calibration_of_the_wrong_shape_is_refused(hwgen, folder, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 6, 1), np.float32))
    code, _, err = hwgen("pack", f"{folder}/net.py:make", "--calibration", tmp_path / "x.npy")
    assert code == 2
    assert "calibration" in one_line(err)


def test_plan_prints_a_table_or_json(hwgen, folder):
    code, text, _ = hwgen("plan", folder / "net.hwpack", "--mode", "sparse-sparse")
    assert code == 0
    assert "multipliers" in text and "ulx3s-85f" in text
    code, text, err = hwgen(
        "plan", folder / "net.hwpack", "--mode", "dense", "--board", "none", "--cycles", 60, "--json"
    )
    assert code == 0, err
    figures = json.loads(text)
    assert figures["board"] is None and figures["mode"] == "dense"
    assert 0 < figures["cycles_per_word"] <= 60
    assert figures["multipliers"] == sum(stage["multipliers"] for stage in figures["stages"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--board", "ulx4s"], "board 'ulx4s' does not exist; choose one of ulx3s-85f"),
        (["--mode", "fast"], "mode 'fast' does not exist"),
        (["--cycles", "1"], "cycles"),
    ],
)
def test_a_plan_out_of_reach_is_one_line(hwgen, folder, options, message):
    code, out, err = hwgen("plan", folder / "net.hwpack", *options)
    assert (code, out) == (2, "")
    assert message in one_line(err)


def test_damaged_files_are_one_line(hwgen, folder, tmp_path):
    content = (folder / "net.hwpack").read_bytes()
    (tmp_path / "cut.hwpack").write_bytes(content[:-7])
    for arguments in (
        ["plan", tmp_path / "cut.hwpack"],
        ["plan", tmp_path / "missing.hwpack"],
        ["report", tmp_path / "cut.hwpack"],
        ["simulate", tmp_path],
        ["run", tmp_path / "cut.hwpack", "--input", folder / "x.npy", "--out", tmp_path / "y.npy"],
    ):
        code, out, err = hwgen(*arguments)
        assert (code, out) == (2, "")
        assert str(tmp_path) in one_line(err)


def test_wrong_usage_exits_with_2(hwgen):
    for arguments in (["plan"], ["nonsense"], ["simulate", "x", "--words", "0"]):
        assert hwgen(*arguments)[0] == 2


def test_generate_names_what_it_made(hwgen, folder, tmp_path):
    code, text, err = hwgen("generate", folder / "net.hwpack", "--out", tmp_path / "b", "--cycles", 100, "--json")
    assert code == 0, err
    figures = json.loads(text)
    assert "net.hwpack" in figures["files"]
    assert figures["plan"]["cycles_per_word"] <= 100
    assert (tmp_path / "b" / "manifest.json").is_file()


def test_generate_does_not_replace_other_folders(hwgen, folder, tmp_path):
    (tmp_path / "mine").write_text("precious")
    code, _, err = hwgen("generate", folder / "net.hwpack", "--out", tmp_path)
    assert code == 2
    assert str(tmp_path) in one_line(err)
    assert (tmp_path / "mine").read_text() == "precious"


def test_simulate_compares_and_counts(hwgen, folder, tmp_path):
    code, text, err = hwgen("simulate", folder / "bundle", "--words", 20, "--json")
    assert code == 0, err
    figures = json.loads(text)
    assert figures["bit_exact"] is True and figures["words"] == 20
    assert figures["cycles_per_word"] == figures["cycles_planned"]
    assert figures["cycles"] >= 19 * figures["cycles_per_word"]
    code, text, err = hwgen("simulate", folder / "bundle", "--words", 5, "--input", folder / "x.npy")
    assert code == 0, err
    assert "bit exact" in text
    code, _, err = hwgen("simulate", folder / "bundle", "--words", 41, "--input", folder / "x.npy")
    assert code == 2
    assert "holds 40 words, fewer than the 41" in one_line(err)


def test_simulate_fails_where_hardware_and_reference_differ(hwgen, folder, monkeypatch):
    from host import reference

    exact = reference.run_int

    def off_by_one(network, x):
        y = exact(network, x)
        y[3:] += 1
        return y

    monkeypatch.setattr(reference, "run_int", off_by_one)
    code, text, err = hwgen("simulate", folder / "bundle", "--words", 5, "--json")
    assert code == 1
    assert json.loads(text)["differing_words"] == [3, 4]
    assert "differ, first in word 3 of 5" in one_line(err)


def test_run_writes_what_the_model_gives(hwgen, folder, tmp_path):
    outputs = {}
    for device in ("reference", "cpu", "sim"):
        out = tmp_path / f"{device}.npy"
        code, text, err = hwgen(
            "run", folder / "bundle", "--device", device, "--input", folder / "x.npy", "--out", out, "--json"
        )
        assert code == 0, err
        figures = json.loads(text)
        assert figures["words"] == 40 and figures["device"] == device
        outputs[device] = np.load(out, allow_pickle=False)
    assert outputs["cpu"].shape == (40, 3) and outputs["cpu"].dtype == np.float32
    assert np.array_equal(outputs["cpu"], outputs["reference"])
    assert np.array_equal(outputs["cpu"], outputs["sim"])


@pytest.mark.parametrize(
    ("options", "message"), [(["--device", "gpu"], "gpu"), (["--out", "/nowhere/y.npy"], "/nowhere/y.npy")]
)
def test_run_names_what_is_wrong(hwgen, folder, tmp_path, options, message):
    arguments = ["run", folder / "bundle", "--input", folder / "x.npy", "--out", tmp_path / "y.npy"]
    code, _, err = hwgen(*arguments, *options)
    assert code == 2
    assert message in one_line(err)


def test_report_of_a_network_and_of_a_bundle(hwgen, folder):
    for source in ("net.hwpack", "bundle"):
        code, text, _ = hwgen("report", folder / source)
        assert code == 0 and "efficiency" in text
        code, text, _ = hwgen("report", folder / source, "--json")
        assert code == 0 and json.loads(text)["nonzeros"] == 72


def test_control_c_is_quiet(hwgen, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("hwgen.cli._load", interrupted)
    code, out, err = hwgen("report", "net.hwpack")
    assert (code, out) == (130, "")
    assert "Traceback" not in err


def test_progress_goes_to_standard_error_only(hwgen, folder):
    code, out, err = hwgen("plan", folder / "net.hwpack", "--json")
    assert code == 0
    json.loads(out)
    assert "planning" in err
