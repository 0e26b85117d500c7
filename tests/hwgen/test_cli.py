from __future__ import annotations

import importlib.metadata
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
def stops():
    raise SystemExit(3)
def prints():
    print("hello")
    return make()
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


@pytest.mark.parametrize("command", [None, "demo", "pack", "plan", "generate", "simulate", "run", "report", "audit"])
def test_every_command_has_help(hwgen, command):
    code, out, _ = hwgen(*([command] if command else []), "--help")
    assert code == 0
    assert "Usage" in out
    if command:
        assert "--json" in out


def test_the_version_is_that_of_the_package(hwgen):
    assert hwgen("--version") == (0, f"hwgen {importlib.metadata.version('hwgen')}\n", "")


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
        ("net.py:stops", "stops() failed: SystemExit: 3"),
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


def test_pack_warns_of_a_k_wta_that_keeps_everything(hwgen, folder, tmp_path):
    (tmp_path / "all.py").write_text(MODEL.replace("KWinners(k=2)", "KWinners(k=8)"))
    code, _, err = hwgen(
        "pack", f"{tmp_path}/all.py:make", "--calibration", folder / "x.npy", "--out", tmp_path / "net.hwpack"
    )
    assert code == 0
    assert "layer '1': k = 8 keeps all of 8 values" in one_line(err)


def test_calibration_of_the_wrong_shape_is_refused(hwgen, folder, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 6, 1), np.float32))
    code, _, err = hwgen("pack", f"{folder}/net.py:make", "--calibration", tmp_path / "x.npy")
    assert code == 2
    assert "calibration" in one_line(err)


def test_plan_prints_a_table_or_json(hwgen, folder):
    code, text, _ = hwgen("plan", folder / "net.hwpack", "--mode", "sparse-sparse")
    assert code == 0
    assert "multipliers" in text and "ulx3s-85f has" in text and "83,640" in text
    assert "mac, sparse-sparse" in text and max(map(len, text.splitlines())) <= 80
    code, text, err = hwgen(
        "plan", folder / "net.hwpack", "--mode", "dense", "--board", "none", "--cycles", 60, "--json"
    )
    assert code == 0, err
    figures = json.loads(text)
    assert figures["board"] is None and figures["mode"] == "dense" and figures["board_has"] is None
    assert 0 < figures["estimate"]["dsp"] <= figures["multipliers"]
    assert abs(figures["estimate"]["lut"] - sum(stage["estimate"]["lut"] for stage in figures["stages"])) < 10
    assert 0 < figures["cycles_per_word"] <= 60
    assert figures["multipliers"] == sum(stage["multipliers"] for stage in figures["stages"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--board", "ulx4s"], "board 'ulx4s' does not exist; choose one of ulx3s-85f"),
        (["--mode", "fast"], "mode 'fast' does not exist"),
        (["--cycles", "1"], "ask for more cycles; the least that is possible is --cycles "),
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
        assert figures["seconds"] == round(figures["seconds"], 6)
        outputs[device] = np.load(out, allow_pickle=False)
    assert outputs["cpu"].shape == (40, 3) and outputs["cpu"].dtype == np.float32
    assert np.array_equal(outputs["cpu"], outputs["reference"])
    assert np.array_equal(outputs["cpu"], outputs["sim"])


def test_a_path_that_cannot_be_written_is_refused_before_the_work(hwgen, folder, tmp_path, monkeypatch):
    def work(*arguments, **options):
        raise AssertionError("the work was begun")

    for begun in ("hwgen.user_files.load_model", "hwgen.user_files.load_array", "hwgen.cli._words"):
        monkeypatch.setattr(begun, work)
    calibrated = ("--calibration", folder / "x.npy")
    for arguments, message in (
        (("pack", "net.py:make", *calibrated, "--out", tmp_path / "no" / "net.hwpack"), "there is no folder"),
        (("pack", "net.py:make", *calibrated, "--out", tmp_path), "is a folder"),
        (("run", folder / "bundle", "--input", "x.npy", "--out", tmp_path / "no" / "y.npy"), "there is no folder"),
        (("simulate", folder / "bundle", "--trace", tmp_path / "no" / "waves.vcd"), "there is no folder"),
        (("simulate", folder / "bundle", "--trace", tmp_path / "waves.txt"), "must end in .vcd or .fst"),
    ):
        code, out, err = hwgen(*arguments)
        assert (code, out) == (2, "")
        assert str(tmp_path) in one_line(err) and message in one_line(err)


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
        made = json.loads(hwgen("report", folder / source, "--json")[1])
        assert made["nonzeros"] == 72
    for word in ("ulx3s-85f", "sparse-sparse", "requantise", made["content_hash"]):
        assert word in text
    for stage in made["plan"]["stages"]:
        assert any(
            line.split()[0] == stage["name"] and f" {stage['cycles']} " in f"{line} "
            for line in text.splitlines()
            if line
        )


def test_control_c_is_quiet(hwgen, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("hwgen.cli._load", interrupted)
    code, out, err = hwgen("report", "net.hwpack")
    assert (code, out) == (130, "")
    assert "Traceback" not in err


def test_sigterm_takes_away_what_is_half_done(tmp_path):
    program = """
import os, signal, sys, tempfile
import hwgen.cli

def interrupted(path):
    with tempfile.TemporaryDirectory(dir=sys.argv[1]):
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

hwgen.cli._load = interrupted
hwgen.cli.main(["report", "net.hwpack"])
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (143, "", [])
    assert "Traceback" not in done.stderr


def test_what_a_model_prints_is_no_result(hwgen, folder, tmp_path):
    arguments = ("--calibration", folder / "x.npy", "--out", tmp_path / "net.hwpack", "--json")
    code, out, err = hwgen("pack", f"{folder}/net.py:prints", *arguments)
    assert (code, json.loads(out)["nonzeros"]) == (0, 72)
    assert "hello" in err


def test_a_bundle_that_cannot_be_made_is_refused_before_the_planning(hwgen, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("hwgen.cli._load", None)
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "net"):
        code, _, err = hwgen("generate", folder / "net.hwpack", "--out", out)
        assert code == 2
        assert "name another folder" in one_line(err)


def test_progress_goes_to_standard_error_only(hwgen, folder):
    code, out, err = hwgen("plan", folder / "net.hwpack", "--json")
    assert code == 0
    json.loads(out)
    assert "planning" in err


@pytest.fixture(scope="module")
def labelled(folder):
    """Inputs whose labels are what the model answers, with names of the classes."""
    import torch

    sys.path.insert(0, str(folder))
    try:
        from net import make
    finally:
        sys.path.remove(str(folder))
    x = np.load(folder / "x.npy", allow_pickle=False)
    with torch.no_grad():
        y = make()(torch.from_numpy(x)).numpy().argmax(axis=1)
    np.savez(folder / "labelled.npz", x=x, y=y, classes=np.array(["up", "down", "left"]))
    return folder / "labelled.npz"


def test_audit_prints_tables_or_json(hwgen, folder, labelled):
    models = ("--dense", f"{folder}/net.py:make", "--int8", folder / "net.hwpack")
    code, text, err = hwgen("audit", labelled, *models, "--noise", "0.5", "--noise", "2", "--seed", 1, "--json")
    assert code == 0, err
    figures = json.loads(text)
    assert next(iter(figures)) == "worse"
    assert figures["inputs"] == 40 and figures["classes"] == ["up", "down", "left"]
    assert list(figures["models"]) == ["dense", "int8"]
    assert figures["models"]["dense"]["accuracy"] == 1.0
    assert [level["level"] for level in figures["noise"]] == [0.5, 2.0]
    wrong = 40 - round(40 * figures["models"]["int8"]["accuracy"])
    assert figures["models"]["int8"]["lost"] == wrong == len(figures["differences"])
    code, text, err = hwgen("audit", labelled, *models)
    assert code == 0, err
    assert "down" in text and "calibration error" in text
    assert ("same answer for every input" in text) == (not figures["differences"])
    # What is worse is the first to be read.
    assert text.lstrip().startswith(("No class loses", "Classes that lose"))


def test_audit_names_worse_classes_first(hwgen, folder, labelled, tmp_path):
    with np.load(labelled, allow_pickle=False) as arrays:
        np.savez(tmp_path / "nameless.npz", x=arrays["x"], y=arrays["y"])
    # It always answers the first class.
    (tmp_path / "worse.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def make():\n    layer = nn.Linear(6, 3)\n    layer.weight.data.zero_()\n"
        "    layer.bias.data = torch.tensor([1.0, 0.0, 0.0])\n    return layer\n"
    )
    options = ("--dense", f"{folder}/net.py:make", "--sparse", f"{tmp_path}/worse.py:make")
    code, text, err = hwgen("audit", tmp_path / "nameless.npz", *options)
    assert code == 0, err
    assert text.lstrip().startswith("Classes that lose more than 5 points against dense")
    assert "The models differ on" in text and "Most frequent confusions" in text
    code, text, _ = hwgen("audit", tmp_path / "nameless.npz", *options, "--json")
    assert {worse["name"] for worse in json.loads(text)["worse"]} <= {"1", "2"}
    assert all(worse["points"] == 100.0 for worse in json.loads(text)["worse"])


def test_audit_refuses_in_one_line(hwgen, folder, labelled, tmp_path):
    import zipfile

    x, y = np.zeros((3, 6), np.float32), np.zeros(3, int)
    files = {
        "objects.npz": {"x": x, "y": np.array([{}, {}, {}], dtype=object)},
        "no_labels.npz": {"x": x},
        "strings.npz": {"x": x, "y": np.array(["a", "b", "c"])},
        "lengths.npz": {"x": x, "y": y[:2]},
        "classes.npz": {"x": x, "y": y, "classes": np.array(["a", "b"])},
        "labels.npz": {"x": x, "y": y + 3},
        "shape.npz": {"x": x[:, :5], "y": y},
    }
    for name, arrays in files.items():
        np.savez(tmp_path / name, **arrays)
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "cut.npz").write_bytes(labelled.read_bytes()[:-30])
    # A header that promises a terabyte, in an archive of some bytes.
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive, archive.open("x.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (1 << 38,)})
    dense, good = ("--dense", f"{folder}/net.py:make"), ("--int8", folder / "net.hwpack")
    cases = [
        (tmp_path / "objects.npz", (*dense, *good), "y cannot be read"),
        (tmp_path / "no_labels.npz", (*dense, *good), "has no array y, but x"),
        (tmp_path / "strings.npz", (*dense, *good), "y holds <U1, not numbers"),
        (tmp_path / "lengths.npz", (*dense, *good), "3, but 2 labels"),
        (tmp_path / "classes.npz", (*dense, *good), "has 2 names, but the models give 3 classes"),
        (tmp_path / "labels.npz", (*dense, *good), "labels: contain 3"),
        (tmp_path / "shape.npz", ("--dense", folder / "net.hwpack", *good), "model 'dense': input: shape (3, 5)"),
        (tmp_path / "shape.npz", (*dense, *good), "model 'dense': cannot take inputs of shape (3, 5): mat1"),
        (tmp_path / "text.npz", (*dense, *good), "not an .npz file"),
        (tmp_path / "cut.npz", (*dense, *good), "not an .npz file"),
        (tmp_path / "bomb.npz", (*dense, *good), "x cannot be read"),
        (tmp_path / "missing.npz", (*dense, *good), "missing.npz: No such file"),
        (labelled, dense, "nothing to compare"),
        (labelled, (*dense, "--int8", "net.pt"), "net.pt"),
        (labelled, (*dense, "--int8", tmp_path / "missing.hwpack"), "missing.hwpack"),
        (labelled, (*dense, "--sparse", tmp_path / "missing.onnx"), "missing.onnx: there is no such file"),
    ]
    for data, options, message in cases:
        code, out, err = hwgen("audit", data, *options)
        assert (code, out) == (2, ""), (data, err)
        assert message in one_line(err)
        if "labels" in message or "shape" in message:
            assert data.name in one_line(err)


def test_an_array_that_is_too_large_is_not_read(hwgen, folder, labelled, monkeypatch):
    monkeypatch.setattr("hwgen.user_files.LARGEST_ARRAY", 100)
    code, _, err = hwgen("audit", labelled, "--dense", f"{folder}/net.py:make", "--int8", folder / "net.hwpack")
    assert code == 2
    assert "x takes 1,088 bytes, more than 100" in one_line(err)


def test_pack_takes_scales_of_powers_of_two_and_fine_tuned_models(hwgen, folder, tmp_path):
    from hwgen.format.network import Requantise
    from hwgen.format.packed import PackedNetwork

    model, x, out = f"{folder}/net.py:make", folder / "x.npy", tmp_path / "net.hwpack"
    code, _, err = hwgen("pack", model, "--calibration", x, "--power-of-two", "--out", out)
    assert code == 0, err
    layers = [layer for layer in PackedNetwork.load(out).network.layers if isinstance(layer, Requantise)]
    assert layers and all((layer.multiplier == 1).all() for layer in layers)
    (tmp_path / "tuned.py").write_text(
        f"import sys\nsys.path.insert(0, {str(folder)!r})\nimport numpy as np, hwgen\nfrom net import make\n"
        f"def tuned():\n    return hwgen.quantisation_aware(make(), np.load({str(x)!r}), power_of_two=True)\n"
    )
    code, _, err = hwgen("pack", f"{tmp_path}/tuned.py:tuned", "--out", tmp_path / "tuned.hwpack")
    assert code == 0, err
    assert (tmp_path / "tuned.hwpack").read_bytes() == out.read_bytes()
    code, _, err = hwgen("pack", model, "--out", out)
    assert code == 2 and "net.py:make': needs --calibration, a .npy file" in one_line(err)
