"""What a user can get wrong, from the outside: one clear line, the right class and exit code, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import host
import hwgen
from hwgen import cli
from hwgen.errors import DataError, FormatError, HwgenError, InputError, ModelError, PlanError, ToolError

SHAPE = (1, 6, 6)


def model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 5))


def calibration(words: int = 20) -> np.ndarray:
    return np.random.default_rng(words).random((words, *SHAPE), np.float32)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A folder with net.hwpack and the bundle `net`, to be copied by whoever damages them."""
    folder = tmp_path_factory.mktemp("good")
    packed = hwgen.pack(model(), calibration=calibration())
    packed.save(folder / "net.hwpack")
    hwgen.generate(packed, out=folder / "net")
    return folder


@pytest.fixture
def hwpack(good, tmp_path) -> Path:
    return Path(shutil.copy(good / "net.hwpack", tmp_path))


@pytest.fixture
def bundle(good, tmp_path) -> Path:
    return Path(shutil.copytree(good / "net", tmp_path / "net"))


def refused(kind: type[HwgenError], words: tuple[str, ...], call: Callable[..., Any], *arguments, **options) -> None:
    """Asserts that the call raises `kind` with one line that has the words in it."""
    with pytest.raises(HwgenError) as caught:
        call(*arguments, **options)
    line = str(caught.value)
    assert isinstance(caught.value, kind), (type(caught.value), line)
    assert line and "\n" not in line and len(line) < 400, line
    assert all(word in line for word in words), line


def command(arguments: list[str], capsys) -> tuple[int, list[str]]:
    """The exit code of `hwgen ARGUMENTS` and the lines of its standard error; standard output must stay empty."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    out, err = capsys.readouterr()
    assert not out
    return int(exit_.value.code or 0), err.splitlines()


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Models


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        return x + self.conv(x)


class Branch(Residual):
    def forward(self, x):
        return self.conv(x) if x.sum() > 0 else x


class Loop(Residual):
    def forward(self, x):
        for _ in range(int(x.max())):
            x = self.conv(x)
        return x


class SizeDependent(Residual):
    def forward(self, x):
        return self.conv(x[:, :, : x.shape[2] // 2])


class BatchMixing(Residual):
    def forward(self, x):
        return self.conv(x).reshape(-1, 12)


class Failing(Residual):
    def forward(self, x):
        raise RuntimeError("out of\npatience")


def with_weight(value: float) -> nn.Module:
    broken = model()
    with torch.no_grad():
        broken[4].weight[1, 2] = value
    return broken


MODELS = {
    "unsupported module": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ConvTranspose2d(2, 2, 3)),
        ("'1'", "ConvTranspose2d", "supported"),
    ),
    "unsupported function": (Residual, ("add", "supported")),
    "control flow on values": (Branch, ("forward",)),
    "loop over values": (Loop, ("forward",)),
    "size-dependent slice": (SizeDependent, ("supported",)),
    "mixes the batch": (BatchMixing, ("supported",)),
    "forward raises": (Failing, ("Failing", "out of")),
    "NaN weight": (lambda: with_weight(float("nan")), ("'4'", "NaN")),
    "infinite weight": (lambda: with_weight(float("inf")), ("'4'", "infinity")),
    "wrong input size": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(35, 2)), ("'1'", "35", "36")),
    "window larger than map": (lambda: nn.Sequential(nn.Conv2d(1, 1, 7)), ("'0'", "7x7", "6x6")),
    "no layers": (nn.Sequential, ()),
    "nothing to multiply": (lambda: nn.Sequential(nn.ReLU()), ()),
    "meta device": (lambda: nn.Sequential(nn.Conv2d(1, 1, 3, device="meta")), ("'0'", "weight")),
    "half-made model": (lambda: nn.Sequential(nn.LazyConv2d(2, 3)), ("'0'",)),
    "class instead of model": (lambda: nn.ReLU, ("torch.nn.Module",)),
    "None": (lambda: None, ("torch.nn.Module",)),
}


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
    make, words = MODELS[name]
    refused(ModelError, words, hwgen.pack, make(), calibration=calibration())


def test_an_onnx_path(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"\x08\x07")
    for path in (str(tmp_path / "net.onnx"), tmp_path / "net.onnx"):
        refused(InputError, ("model",), hwgen.pack, path, calibration=calibration())


# Calibration data

CALIBRATIONS = {
    "none": (None, ("calibration", "missing")),
    "empty": (np.zeros((0, *SHAPE), np.float32), ("calibration", "samples")),
    "NaN": (np.full((2, *SHAPE), np.nan, np.float32), ("calibration", "NaN")),
    "one NaN": (np.stack([np.zeros(SHAPE), np.full(SHAPE, np.nan)]), ("calibration", "sample 1 (from 0)")),
    "a single word": (calibration()[0], ("calibration", "(N, C, H, W)", "x[None]")),
    "a single vector": (np.zeros(40, np.float32), ("calibration", "(40,)", "x[None]")),
    "channels missing": (np.zeros((5, 6, 6), np.float32), ("calibration", "(N, C, H, W)")),
    "a vector": (np.zeros((5, 36), np.float32), ()),
    "too many channels": (np.zeros((5, 3, 6, 6), np.float32), ("3",)),
    "text": (np.full((5, *SHAPE), "x"), ("calibration",)),
    "complex": (np.zeros((5, *SHAPE), np.complex64), ("calibration", "complex64")),
    "objects": (np.full((5, *SHAPE), None), ("calibration", "object")),
    "a list": ([[0.0]], ("calibration", "list")),
    "a tensor": (torch.zeros(5, *SHAPE), ("calibration", "Tensor")),
}


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_calibrations(name):
    value, words = CALIBRATIONS[name]
    refused(InputError, words, hwgen.pack, model(), calibration=value)


# Files


def damaged(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = bytearray()
    elif how == "one bit flipped":
        content[len(content) * 3 // 4] ^= 4
    elif how == "foreign":
        content = bytearray(b"\x89PNG\r\n\x1a\n" * 20)
    path.write_bytes(content)


DAMAGES = ("truncated", "empty", "one bit flipped", "foreign")


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_hwpack(hwpack, how, capsys):
    damaged(hwpack, how)
    refused(FormatError, ("net.hwpack",), hwgen.load, hwpack)
    refused(FormatError, ("net.hwpack",), host.open, hwpack, device="cpu")
    code, lines = command(["generate", str(hwpack), "--out", str(hwpack.parent / "out")], capsys)
    assert code == 2 and "net.hwpack" in lines[-1]
    assert not (hwpack.parent / "out").exists()


def test_a_hwpack_of_another_version(hwpack):
    content = hwpack.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    document = json.loads(header["__metadata__"]["hwpack"])
    header["__metadata__"]["hwpack"] = json.dumps(document | {"version": 99})
    changed = json.dumps(header).encode()
    hwpack.write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + size :])
    refused(FormatError, ("net.hwpack", "version", "99"), hwgen.load, hwpack)


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", ["manifest.json", "accelerator.v", "accelerator-1.mem", "net.hwpack"])
def test_a_damaged_bundle(bundle, name, how, capsys):
    damaged(bundle / name, how)
    for device in ("reference", "cpu", "sim"):
        refused(FormatError, (name,), host.open, bundle, device=device)
    code, lines = command(["simulate", str(bundle)], capsys)
    assert code == 2 and name in lines[-1]


@pytest.mark.parametrize("name", ["manifest.json", "accelerator.v", "accelerator-1.mem", "net.hwpack"])
def test_a_bundle_that_lacks_a_file(bundle, name):
    (bundle / name).unlink()
    refused(FormatError, (name,), host.open, bundle, device="sim")


def test_a_bundle_of_another_version(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"version": 99}))
    refused(FormatError, ("manifest.json", "version", "99", "generate"), host.open, bundle)


def test_nothing_there(tmp_path, capsys):
    missing = tmp_path / "no" / "net"
    refused(InputError, (str(missing),), hwgen.load, missing)
    refused(InputError, (str(missing),), host.open, missing)
    refused(InputError, (str(tmp_path),), host.open, tmp_path)
    for arguments in (["report", str(missing)], ["plan", str(missing)], ["simulate", str(missing)]):
        code, lines = command(arguments, capsys)
        assert code == 2 and str(missing) in lines[-1]


# Goals

GOALS = {
    "unknown board": ({"board": "ulx3s"}, ("'ulx3s'", "ulx3s-85f")),
    "unknown mode": ({"mode": "sparse"}, ("'sparse'", "sparse-sparse")),
    "no cycles": ({"cycles": 0}, ("cycles", "0")),
    "negative cycles": ({"cycles": -5}, ("cycles", "-5")),
    # 36 input values arrive one by one.
    "cycles out of reach": ({"cycles": 3}, ("'input'", "36", "3 cycles")),
    "too few multipliers": ({"cycles": 40, "board": "icebreaker", "mode": "dense"}, ("40", "icebreaker", "8")),
}


@pytest.mark.parametrize("name", GOALS)
def test_goals(hwpack, name, capsys):
    options, words = GOALS[name]
    out = hwpack.parent / "out"
    refused(PlanError, words, hwgen.generate, hwgen.load(hwpack), out=out, **options)
    flags = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    code, lines = command(["generate", str(hwpack), "--out", str(out), *flags], capsys)
    assert code == 2 and all(word in lines[-1] for word in words), lines
    assert list(hwpack.parent.iterdir()) == [hwpack]


def test_an_option_that_is_no_number(hwpack, capsys):
    code, lines = command(["plan", str(hwpack), "--cycles", "many"], capsys)
    assert code == 2 and any("--cycles" in line for line in lines)
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_an_output_folder_that_is_something_else(hwpack, kind, capsys):
    out = hwpack.parent / "precious"
    if kind == "folder":
        out.mkdir()
        (out / "thesis.tex").write_text("years of work")
    else:
        out.write_text("years of work")
    before = everything(hwpack.parent)
    refused(InputError, (str(out),), hwgen.generate, hwgen.load(hwpack), out=out)
    code, lines = command(["generate", str(hwpack), "--out", str(out)], capsys)
    assert code == 2 and str(out) in lines[-1]
    assert everything(hwpack.parent) == before


def test_an_output_below_a_file(hwpack):
    refused(InputError, ("net.hwpack",), hwgen.generate, hwgen.load(hwpack), out=hwpack / "out")
    refused(InputError, ("net.hwpack",), hwgen.load(hwpack).save, hwpack / "copy.hwpack")


# Devices and inputs


@pytest.mark.parametrize("device", ["fpga", "", "SIM", "serial:", "sim:fast", "cpu:0"])
def test_devices(bundle, device):
    refused(InputError, ("device",), host.open, bundle, device=device)


def test_simulating_needs_a_bundle(hwpack):
    refused(InputError, ("sim", "bundle"), host.open, hwpack, device="sim")


REAL_INPUTS = {
    "a single word": (calibration()[0], ("(1, 6, 6)", "batch")),
    "too large": (np.zeros((2, 1, 7, 6), np.float32), ("(2, 1, 7, 6)", "(N, 1, 6, 6)")),
    "flat": (np.zeros((2, 36), np.float32), ("(2, 36)", "(N, 1, 6, 6)")),
    "a number": (np.float32(3), ("()", "(N, 1, 6, 6)")),
    "NaN": (np.full((2, *SHAPE), np.nan, np.float32), ("NaN",)),
    "text": (np.full((2, *SHAPE), "x"), ("input",)),
    "complex": (np.zeros((2, *SHAPE), np.complex64), ("complex64",)),
    "objects": (np.full((2, *SHAPE), None), ("object",)),
    "a ragged list": ([[1.0], [1.0, 2.0]], ("input",)),
}
INTEGERS = {
    "real values": (calibration(), ("float32", "run")),
    "too large": (np.full((2, *SHAPE), 256), ("256",)),
    "too small": (np.full((2, *SHAPE), -129), ("-129",)),
    "a single word": (np.zeros(SHAPE, np.uint8), ("(1, 6, 6)", "batch")),
    "wrong shape": (np.zeros((2, 2, 6, 6), np.uint8), ("(2, 2, 6, 6)", "(N, 1, 6, 6)")),
    "booleans": (np.zeros((2, *SHAPE), np.bool_), ("bool",)),
}


@pytest.mark.parametrize("name", REAL_INPUTS)
def test_real_inputs(hwpack, name, capsys):
    x, words = REAL_INPUTS[name]
    with host.open(hwpack) as accelerator:
        refused(DataError, words, accelerator.run, x)
        refused(DataError, words, accelerator.submit, x)


@pytest.mark.parametrize("name", INTEGERS)
def test_integers(hwpack, name):
    x, words = INTEGERS[name]
    with host.open(hwpack) as accelerator:
        refused(DataError, words, accelerator.run_int, x)


@pytest.mark.parametrize("name", ["too large", "NaN", "complex", "a number"])
def test_input_files(hwpack, name, capsys):
    x, words = REAL_INPUTS[name]
    np.save(hwpack.parent / "x.npy", x)
    out = hwpack.parent / "y.npy"
    code, lines = command(["run", str(hwpack), "--input", str(hwpack.parent / "x.npy"), "--out", str(out)], capsys)
    assert code == 2 and all(word in lines[-1] for word in words), lines
    assert not out.exists()


def test_an_input_file_that_holds_a_pickle(hwpack, capsys):
    np.save(hwpack.parent / "x.npy", np.array([print], dtype=object))
    out = hwpack.parent / "y.npy"
    code, lines = command(["run", str(hwpack), "--input", str(hwpack.parent / "x.npy"), "--out", str(out)], capsys)
    assert code == 2 and "x.npy" in lines[-1]
    assert not out.exists()


# The machine


def test_a_missing_compiler(bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    refused(ToolError, ("g++", "install"), host.open, bundle, device="sim")
    code, lines = command(["simulate", str(bundle)], capsys)
    assert code == 1 and "g++" in lines[-1]
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix == ".so"]


def test_a_compiler_that_fails(bundle, tmp_path, monkeypatch):
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "g++").write_text("#!/bin/sh\necho 'g++: fatal error: no space left' >&2\nexit 1\n")
    (tools / "g++").chmod(0o755)
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    refused(ToolError, ("g++", "no space left"), host.open, bundle, device="sim")


def test_the_command_line_shows_no_traceback(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", "from hwgen.cli import main; main()", "report", str(tmp_path / "net.hwpack")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2 and not process.stdout
    (line,) = process.stderr.splitlines()
    assert "net.hwpack" in line


# Not an error


@pytest.mark.parametrize("dead", [0, 4], ids=["convolution", "linear"])
def test_a_layer_without_weights_works(dead, tmp_path):
    pruned = model()
    with torch.no_grad():
        pruned[dead].weight.zero_()
    packed = hwgen.pack(pruned, calibration=calibration())
    packed.save(tmp_path / "net.hwpack")
    hwgen.generate(hwgen.load(tmp_path / "net.hwpack"), out=tmp_path / "net", mode="sparse-sparse")
    x = calibration(6)
    with torch.no_grad():
        expected = pruned(torch.from_numpy(x)).numpy()
    integers = np.random.default_rng(4).integers(0, 128, (6, *SHAPE))
    results = []
    for device in ("reference", "sim"):
        with host.open(tmp_path / "net", device=device) as accelerator:
            # The result no longer depends on the input, so that all there is to lose is rounding.
            np.testing.assert_allclose(accelerator.run(x), expected, atol=0.02)
            results.append(accelerator.run_int(integers))
    np.testing.assert_array_equal(*results)
