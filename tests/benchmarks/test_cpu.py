from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

import host
import hwgen
from benchmarks.cpu import networks, results, timing
from benchmarks.cpu.__main__ import main
from benchmarks.cpu.graphs import torch_module
from benchmarks.cpu.measure import Form, Measured, Own, Task, measure, measure_pinned
from host import reference
from hwgen.errors import InputError, ModelError
from hwgen.format.io import quantise_input

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A network's file, words for it and what the reference makes of them."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), hwgen.nn.KWinners2d(k=2), nn.Flatten(), nn.Linear(64, 3)).eval()
    x = np.random.default_rng(1).normal(size=(8, 1, 6, 6)).astype(np.float32)
    packed = hwgen.pack(model, calibration=x)
    path = tmp_path_factory.mktemp("tiny") / "tiny.hwpack"
    packed.save(path)
    with host.open(path, device="reference") as accelerator:
        expected = accelerator.run_int(quantise_input(packed.network.input, x))
    return path, x, expected


def task(tiny, *own, batch=1, expected=None) -> Task:
    path, x, computed = tiny
    computed = computed if expected is None else expected
    forms = tuple(Own(name, path, computed, device, required) for name, device, required in own)
    return Task(forms, (), x, x, batch=batch, threads=1, calls=3, deepsparse=None)


def test_every_form_of_hwgen_is_compared_with_the_reference_and_timed(tiny):
    measured = measure(task(tiny, ("a", "reference", True), ("b", "cpu", True), batch=4))
    assert measured.bit_exact
    assert {form: len(seconds) for form, seconds in measured.seconds.items()} == {
        Form("hwgen", "a"): 3,
        Form("hwgen", "b"): 3,
    }
    wrong = tiny[2].copy()
    wrong[-1, -1] += 1
    assert not measure(task(tiny, ("a", "reference", True), expected=wrong)).bit_exact


def test_a_device_that_does_not_open_is_absent_or_an_error(tiny):
    measured = measure(task(tiny, ("a", "reference", True), ("b", "nothing", False)))
    assert set(measured.absent) == {"hwgen (b)"} and "no such device" in measured.absent["hwgen (b)"]
    with pytest.raises(InputError, match="no such device"):
        measure(task(tiny, ("b", "nothing", True)))


def test_a_pinned_measurement_leaves_this_process_as_it_was(tiny):
    before = os.sched_getaffinity(0)
    assert measure_pinned(task(tiny, ("a", "reference", True)), sorted(before)[-1:]).bit_exact
    assert os.sched_getaffinity(0) == before


def test_calls_are_timed_one_by_one_after_some_that_are_not():
    seen: list[int] = []
    seconds = timing.timed(seen.append, [10, 11, 12], 5)
    assert len(seconds) == 5 and all(one >= 0 for one in seconds)
    assert len(seen) == timing.UNTIMED + 5 and seen[timing.UNTIMED :] == [10, 11, 12, 10, 11]


@pytest.mark.parametrize("calls", [1, 19, 20, 21, 1000])
def test_all_sides_take_turns_in_every_round(calls):
    turns: list[str] = []

    class Recorded:
        def __init__(self, name: str) -> None:
            self.name = name

        def block(self, calls: int) -> list[float]:
            turns.append(self.name)
            return [1.0] * calls

    shares: list[float] = []
    seconds = timing.round_robin([Recorded(name) for name in "abc"], calls, shares.append)
    assert len({len(one) for one in seconds}) == 1 and calls <= len(seconds[0]) < calls + timing.ROUNDS
    rounds = ["".join(sorted(turns[i : i + 3])) for i in range(0, len(turns), 3)]
    assert set(rounds) == {"abc"} and len(rounds) == len(shares) and shares[-1] == 1


def measured(**medians: float) -> Measured:
    names = {
        "own": Form("hwgen", "cpu"),
        "dense": Form("onnxruntime", "fp32"),
        "winners": Form("onnxruntime", "fp32, k-winners"),
        "int8": Form("onnxruntime", "int8"),
        "other": Form("openvino", "int8"),
    }
    return Measured({names[name]: [0.5 * value, value, 2 * value] for name, value in medians.items()})


def test_ratios_tell_how_many_times_faster_hwgen_is():
    latency = measured(own=100e-6, dense=600e-6, winners=800e-6, int8=250e-6, other=300e-6)
    rows = results.figures(latency, measured(own=5e-3, dense=20e-3, other=10e-3), batch=64)
    assert rows[0].latency_us.median == 100 and rows[0].throughput == 12_800
    assert rows[3].throughput is None
    assert results.network_ratios(rows, Form("hwgen", "cpu")) == {
        "ratio_vs_ort_fp32_dense": 6,
        "ratio_vs_ort_fp32_k_winners": 8,
        "best_engine": "onnxruntime (int8)",
        "ratio_vs_best_engine": 2.5,
        "throughput_best_engine": "openvino (int8)",
        "throughput_ratio_vs_best_engine": 2,
    }
    alone = results.network_ratios(results.figures(measured(own=1e-4), None, batch=64), Form("hwgen", "cpu"))
    assert set(alone.values()) == {None}


def test_ratios_of_a_layer():
    own, dense, alone, ort = (
        Form("hwgen", "cpu, k-winners"),
        Form("hwgen", "cpu:dense, k-winners"),
        Form("hwgen", "cpu:dense"),
        Form("onnxruntime", "int8"),
    )
    seconds = {own: [1e-3], dense: [5e-3], alone: [4e-3], ort: [2e-3]}
    rows = results.figures(Measured(seconds), Measured(seconds), batch=64)
    assert results.layer_ratios(rows, own, dense, alone) == {
        "ratio_vs_own_dense": 5,
        "own_dense_vs_ort_int8": 0.5,
        "throughput_ratio_vs_own_dense": 5,
        "throughput_own_dense_vs_ort_int8": 0.5,
    }


def small_model() -> nn.Module:
    """A ReLU that becomes saturation, a stride, padding, groups, both kinds of k-WTA and a head."""
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        hwgen.nn.KWinners2d(k=3),
        nn.Conv2d(8, 8, 3, stride=2, groups=2),
        hwgen.nn.KWinners2d(k=10, local=False),
        nn.Flatten(),
        nn.Linear(72, 5),
        nn.LogSoftmax(1),
    ).eval()


def test_the_float_network_computes_what_the_integers_stand_for():
    model, x = small_model(), np.random.default_rng(2).normal(size=(32, 2, 13, 13)).astype(np.float32)
    packed = hwgen.pack(model, calibration=x)
    found = torch_module(networks.in_floats(packed.network))(torch.from_numpy(x)).numpy()
    expected = model(torch.from_numpy(x)).detach().numpy()
    # Rounded weights let other values win now and then.
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99
    assert np.median(np.abs(found - expected)) < 0.05


def test_networks_that_the_comparison_lacks_a_layer_for_are_refused():
    x = np.ones((2, 1, 4, 4), np.float32)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(ModelError, match=r"'1' \(SumPool2d\)"):
        networks.in_floats(hwgen.pack(model, calibration=x).network)


@pytest.mark.parametrize("name", networks.LAYERS)
def test_a_layers_inputs_are_what_k_winners_leave(name):
    shape = networks.LAYERS[name]
    x = networks.layer_inputs(shape, [1, 0], 2)
    assert x.shape == (2, shape.channels, shape.size, shape.size) and x.dtype == np.float32
    assert ((x > 0).sum(axis=1) == shape.winners).all() and (x >= 0).all()
    assert 0.9 <= shape.winners / shape.channels / networks.ACTIVE <= 1.1


def test_a_layers_k_winners_change_nothing():
    shape = networks.LAYERS["small"]
    x = networks.layer_inputs(shape, [1, 0], 16)
    behind, alone = networks.layers(shape, 1, x)
    assert [type(layer).__name__ for layer in behind.network.layers] == ["KWinners", "Conv2d"]
    assert [type(layer).__name__ for layer in alone.network.layers] == ["Conv2d"]
    assert alone.report()[0].nonzeros == shape.channels * shape.nonzeros
    found = [reference.run_int(packed.network, quantise_input(packed.network.input, x)) for packed in (behind, alone)]
    np.testing.assert_array_equal(*found)
    assert (quantise_input(alone.network.input, x) > 0).sum() == (x > 0).sum()


def run(*options):
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, list(map(str, options)))


def test_the_command_prints_one_json_object(tiny):
    options = ("--network", tiny[0], "--calls", "2", "--batches", "2", "--engine", "onnxruntime", "--json")
    command = [sys.executable, "-m", "benchmarks.cpu", *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["bit_exact"] is True and figures["network"] == "tiny.hwpack"
    assert figures["machine"]["cpu"] and figures["machine"]["cores"] >= 1
    assert figures["forms"][0]["engine"] == "hwgen" and figures["forms"][0]["latency_us"]["median"] > 0
    assert figures["forms"][0]["throughput"] > 0
    installed = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
    assert ("onnxruntime" in figures["absent"]) != installed
    assert len(figures["forms"]) == (5 if installed else 1)
    assert (figures["ratio_vs_ort_fp32_dense"] is not None) == installed


def test_the_command_prints_tables_of_a_layer():
    done = run("--layer", "small", "--calls", "2", "--batches", "0", "--engine", "deepsparse")
    assert done.exit_code == 0, done.stderr
    for part in ("ratio vs own dense", "own dense vs ort int8", "cpu, k-winners", "one layer, small"):
        assert part in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--engine", "tvm"), "cpu: --engine tvm: no such engine: use one of onnxruntime, "),
        (("--layer", "huge"), "cpu: --layer huge: no such layer: use one of wide, small"),
        (("--layer", "wide", "--network", "net.hwpack"), "cpu: --layer: measures a layer of its own"),
        (("--network", "net.hwpack"), "cpu: net.hwpack: "),
    ],
)
def test_mistakes_are_told_in_a_line(options, message):
    done = run(*options)
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(message)


def test_hwgen_imports_none_of_the_engines():
    pattern = re.compile(r"^\s*(import|from) (onnx|onnxruntime|openvino|deepsparse)\b", re.MULTILINE)
    for package in ("hwgen", "host", "sim", "boards", "rtl_templates"):
        for path in (ROOT / package).rglob("*.py"):
            # An audit runs the user's own ONNX models, if the user has ONNX Runtime.
            allowed = path == ROOT / "hwgen/audit/predictors.py"
            assert allowed or not pattern.search(path.read_text()), path
