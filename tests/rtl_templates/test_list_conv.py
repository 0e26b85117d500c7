# amaranth: UnusedElaboratable=no
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from amaranth import signed, unsigned

from rtl_templates.list_conv import ListConv
from rtl_templates.target import ULTRASCALE
from rtl_templates.windows import Windows
from sim.bench import run_bench
from tests.rtl_templates.list_conv_units import accumulator_bits, weights_of, windows_of

UNITS = {
    "odd sets": {"map": (5, 6), "kernel": (3, 2), "entries": 4, "channels": 7, "sets": 3, "kernels": 4},
    "stride, padding, dilation": {
        "map": (5, 6), "kernel": (2, 3), "stride": (2, 1), "padding": (1, 2), "dilation": (2, 2), "entries": 3,
        "channels": 16, "sets": 2, "kernels": 5, "signed": False, "offset": 18,
    },
    "rows and columns that no window reaches": {
        "map": (6, 5), "kernel": (2, 2), "stride": (3, 2), "entries": 5, "channels": 9, "sets": 2, "kernels": 2,
        "signed": False,
    },
    "one pixel": {"map": (1, 1), "kernel": (1, 1), "entries": 1, "channels": 1, "sets": 1, "kernels": 1},
    "a cycle a position": {"map": (4, 5), "kernel": (2, 2), "entries": 1, "channels": 6, "sets": 2, "kernels": 1},
    "several weight rows": {
        "map": (3, 4), "kernel": (1, 3), "entries": 2, "depth": None, "weight_rows": 3, "channels": 5, "sets": 3, "kernels": 3,
        "unpaired": 2,
    },
    "writing takes longer": {
        "map": (5, 5), "kernel": (1, 2), "stride": (2, 2), "entries": 6, "channels": 5, "sets": 2, "kernels": 11,
        "padding": (0, 1),
    },
    "all at the bound": {
        "map": (2, 4), "kernel": (2, 2), "entries": 2, "channels": 3, "sets": 2, "kernels": 2, "largest": True,
    },
    "all at the bound, unsigned": {
        "map": (2, 3), "kernel": (2, 2), "entries": 2, "channels": 3, "sets": 2, "kernels": 2, "largest": True,
        "signed": False,
    },
    "two offsets a lane": {
        "map": (5, 6), "kernel": (3, 2), "entries": 4, "channels": 7, "sets": 3, "kernels": 4, "parts": 2,
    },
    "three offsets a lane, the last one with two": {
        "map": (6, 5), "kernel": (4, 2), "entries": 3, "channels": 9, "sets": 2, "kernels": 5, "parts": 3,
        "weight_rows": 2, "stride": (2, 1), "padding": (1, 1), "signed": False,
    },
    "all offsets in a lane": {
        "map": (4, 4), "kernel": (2, 2), "entries": 1, "channels": 3, "sets": 1, "kernels": 2, "parts": 4,
    },
    "three halves of an offset a lane": {
        "map": (5, 6), "kernel": (3, 3), "entries": 8, "channels": 7, "sets": 3, "kernels": 4, "parts": 3, "split": 2,
    },
    "five quarters of an offset a lane, an odd list": {
        "map": (5, 6), "kernel": (2, 3), "stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "entries": 7,
        "channels": 16, "sets": 2, "kernels": 5, "signed": False, "parts": 5, "split": 4,
    },
    "two thirds of an offset a lane, the last one with one": {
        "map": (6, 5), "kernel": (1, 3), "stride": (1, 2), "padding": (0, 1), "entries": 5, "channels": 9, "sets": 2,
        "kernels": 3, "parts": 2, "split": 3, "weight_rows": 2,
    },
    "a lane for each half of an offset": {
        "map": (4, 4), "kernel": (2, 2), "entries": 4, "channels": 6, "sets": 1, "kernels": 2, "split": 2,
    },
    "more kernels than the entries of a sub-list": {
        "map": (4, 4), "kernel": (2, 2), "entries": 3, "channels": 6, "sets": 1, "kernels": 9, "split": 2, "largest": True,
    },
    "seven quarters of an offset a lane, least depth": {
        "map": (5, 5), "kernel": (2, 3), "entries": 8, "channels": 3, "sets": 2, "kernels": 2, "depth": 8, "parts": 7,
        "split": 4,
    },
    "parts, least depth": {
        "map": (5, 5), "kernel": (2, 3), "entries": 2, "channels": 3, "sets": 2, "kernels": 2, "depth": 8, "parts": 4,
    },
    "least depth": {
        "map": (5, 5), "kernel": (2, 3), "entries": 2, "channels": 3, "sets": 2, "kernels": 2, "depth": 8,
    },
}  # fmt: skip


def component(unit):
    weights, kernel_ids = weights_of(unit)
    return ListConv(
        shape=signed(8) if unit["signed"] else unsigned(8),
        entries=unit["entries"],
        windows=windows_of(unit),
        weights=weights,
        kernel_ids=kernel_ids,
        kernels=unit["kernels"],
        accumulator=signed(accumulator_bits(unit)),
        depth=unit.get("depth"),
        offset=unit.get("offset", 10),
        parts=unit.get("parts", 1),
        split=unit.get("split", 1),
        unpaired=unit.get("unpaired", 0),
    )


def run(unit, test_case=None, target=None):
    unit = {"signed": True, **unit}
    tested = component(unit)
    if "depth" not in unit:
        # No deeper than an even producer needs.
        tested = component(unit | {"depth": windows_of(unit).full_speed_depth(tested.interval, tested.cycles)})
    last_offset = (unit["kernel"][0] - 1, unit["kernel"][1] - 1)
    windows = windows_of(unit)
    inside = np.outer(windows.inside(0), windows.inside(1)).ravel()
    last_pixel = windows.pixels_of(last_offset)[0]
    assert inside[last_pixel]
    run_bench(
        tested,
        "tests.rtl_templates.list_conv_bench",
        test_case,
        parameters={
            "unit": unit,
            "interval": tested.interval,
            "settling": 2 * tested.interval + tested.lanes + 4,
            "writes": -(-unit["entries"] // 2) // unit.get("split", 1) * unit.get("parts", 1),
            "cycles": tested.cycles,
            "latency": tested.latency,
            "waits": any(windows_of(unit).padding),
            "last_pixel": int(inside[:last_pixel].sum()),
        },
        target=target,
    )


@pytest.mark.parametrize("name", UNITS)
def test_against_a_convolution(name):
    run(UNITS[name])


@pytest.mark.parametrize("name", ["odd sets", "stride, padding, dilation", "one pixel"])
def test_as_written_for_ultrascale(name):
    run(UNITS[name] | {"offset": ULTRASCALE.pair_offset}, target=replace(ULTRASCALE, ultra_ram=True))


def test_depth():
    """The example of a 14 x 14 map."""
    windows = Windows((14, 14), (5, 5))
    # Four rows of ten lists and five.
    assert windows.least_depth() == 45
    assert windows.full_speed_depth(interval=8, cycles=800) == 64
    made = component(
        {"signed": True, "map": (14, 14), "kernel": (5, 5), "entries": 8, "channels": 4, "sets": 1, "kernels": 8}
    )
    # What a block RAM of 512 rows holds.
    assert (made.lane.depth, made.interval, made.cycles) == (128, 8, 800)


@pytest.mark.slow
def test_a_large_one():
    run({"map": (14, 14), "kernel": (5, 5), "entries": 8, "channels": 64, "sets": 8, "kernels": 8})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"map": (0, 3)}, r"map must be positive, not \(0, 3\)"),
        ({"stride": (1, 0)}, r"stride must be positive, not \(1, 0\)"),
        ({"padding": (-1, 0)}, r"padding must not be negative, not \(-1, 0\)"),
        ({"kernel": (4, 1)}, "the kernel must fit into the padded map"),
    ],
)
def test_refuses_windows(arguments, message):
    with pytest.raises(ValueError, match=message):
        Windows(**{"map": (3, 3), "kernel": (2, 2), **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"entries": 0}, "entries must be positive, not 0"),
        ({"kernels": 0}, "kernels must be positive, not 0"),
        ({"parts": 0}, "parts must be positive, not 0"),
        ({"split": 0}, "split must be one of 1, not 0"),
        ({"entries": 7, "split": 3}, "split must be one of 1, 2, 4, not 3"),
        ({"kernels": 2}, "kernel IDs must be below 2"),
        ({"weights": np.full((4, 1, 5, 2), -128)}, r"weights must be in \[-127, 127\]"),
        ({"weights": np.zeros((3, 1, 5, 2))}, r"weights and kernel IDs must be \(4, weight rows, channels, sets\)"),
        ({"depth": 12}, "depth must be a power of two, at least 4, not 12"),
        ({"depth": 2}, "depth must be a power of two, at least 4, not 2"),
    ],
)
def test_refuses(arguments, message):
    made = {
        "shape": signed(8), "entries": 2, "windows": Windows((3, 3), (2, 2)), "weights": np.zeros((4, 1, 5, 2)),
        "kernel_ids": np.full((4, 1, 5, 2), 2), "kernels": 3, "accumulator": signed(20),
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        ListConv(**(made | arguments))
