"""Figures in the README and the pages beside it are those of the committed results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text()


def result(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def test_the_demonstration():
    demo = result("demo.json")
    for mode, figures in demo["modes"].items():
        (row,) = (line for line in README.splitlines() if line.startswith(f"| {mode}: "))
        product = round(figures["cycles_times_multipliers"])
        for figure in (figures["multipliers"], round(figures["cycles_per_word"]), product):
            assert f" {figure:,} |" in row
    for name in ("dense", "sparse", "int8"):
        assert f"| {100 * demo[f'accuracy_{name}']:.2f} % |" in README


@pytest.mark.parametrize("name", ["5g_1200_seed1", "5g_1200_seed2", "5g_1400_seed1", "5g_1600_seed1", "1600_seed1"])
def test_what_was_placed_and_routed(name):
    build = result(f"place_and_route/ecp5_{name}.json")["build"]
    used = build["utilisation"]
    (fmax,) = build["fmax_mhz"].values()
    (row,) = (line for line in README.splitlines() if f"| {fmax:.2f} MHz |" in line)
    assert f"{round(build['words_per_second']):,}" in row
    assert f"| {build['cycles_per_word']:,} |" in row
    assert f"{used['lut']['used']:,} LUTs" in row
    assert f", {used['dsp']['used']} " in row


def test_full_chips():
    full = result("full_chip.json")
    (chip,) = (chip for chip in full["chips"] if (chip["chip"], chip["mode"]) == ("alveo-u250", "sparse-sparse"))
    ratios = full["ratios"]
    text = " ".join(README.split())
    assert f"{sum(chip['copies'])} copies of it fill" in text
    assert f"to {chip['words_per_second'] / 1e6:.1f} million words a second" in text
    assert f"{ratios['sparse-sparse achieved / dense bound']:.1f} times the bound of a dense" in text
    assert f"{ratios['sparse-sparse achieved / published full chip (recalled)']:.1f} times what the paper" in text


def test_the_keyword_spotter():
    shipped, seeds = result("keyword_spotting.json"), result("keyword_spotting_seeds.json")
    assert f"is right in {shipped['accuracy_int8']['mean']:.1f} %" in README
    assert f"the dense one in {shipped['accuracy_dense']['mean']:.1f} %" in README
    text = page("keyword_spotting.md")
    evaluation = shipped["runs"][0]["evaluation"]
    for row, figure in {"dense, float": "dense", "sparse, float": "sparse", "sparse, int8": "int8"}.items():
        assert f"| {row} | {evaluation[f'accuracy_{figure}']:.1f} |" in text
    for number, run in enumerate(seeds["runs"]):
        found, watched = run["evaluation"], run["training"]["validation_accuracy"]
        accuracies = [found[f"accuracy_{name}"] for name in ("dense", "sparse", "int8")]
        figures = [*accuracies, accuracies[0] - accuracies[2], *(watched[name] for name in ("dense", "sparse", "int8"))]
        assert f"| seed {number} | {' | '.join(f'{figure:.1f}' for figure in figures)} |" in text


@pytest.mark.parametrize(("name", "column"), [("cpu_avx512", 0), ("cpu_amx", 1)])
def test_processors(name, column):
    rows = {
        ("hwgen", "cpu"): "hwgen, with its k-winners",
        ("deepsparse", "int8"): "DeepSparse int8, without k-winners",
        ("deepsparse", "fp32"): "DeepSparse float32, without",
        ("onnxruntime", "int8"): "ONNX Runtime int8, without",
        ("openvino", "int8"): "OpenVINO int8, without",
        ("onnxruntime", "fp32"): "ONNX Runtime float32, without",
        ("onnxruntime", "int8, k-winners"): "ONNX Runtime int8, with k-winners",
        ("torch.compile", "fp32, k-winners"): "torch.compile float32, with",
    }
    figures = {(form["engine"], form["form"]): form for form in result(f"{name}.json")["forms"]}
    for form, label in rows.items():
        (row,) = (line for line in README.splitlines() if line.startswith(f"| {label} |"))
        cells = [cell.strip(" *") for cell in row.split("|")[2 + 2 * column : 4 + 2 * column]]
        found = figures.get(form)
        if found is None:
            assert cells == ["–", "–"]
        else:
            assert cells == [f"{found['latency_us']['median']:,.0f}", f"{round(found['throughput']):,}"]


def test_planned_tiles():
    text = page("sparsify.md")
    for layer in result("tile_wise_hardware.json")["layers"]:
        size = f"{layer['inputs']:,} to {layer['outputs']:,}"
        for plan in layer["plans"]:
            work = f"{plan['cycles']:,} | {plan['multipliers']:,} | {100 * plan['utilisation']:.1f} %"
            area = f"{plan['weight_bits']:,} | {plan['lut']:,}"
            assert f"| {size} | {plan['limit']:,} | {plan['mode']} | {work} | {area} |" in text
