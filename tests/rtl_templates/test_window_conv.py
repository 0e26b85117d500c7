# amaranth: UnusedElaboratable=no
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from amaranth import signed, unsigned

from rtl_templates.target import ULTRASCALE
from rtl_templates.window_conv import WindowConv
from rtl_templates.window_parts import WindowParts
from rtl_templates.windows import Windows
from sim.bench import run_bench
from tests.rtl_templates.list_conv_units import accumulator_bits, weights_of, windows_of

UNITS = {
    "odd sets, three lanes": {
        "map": (5, 6), "kernel": (3, 2), "entries": 4, "channels": 7, "sets": 3, "kernels": 4, "interval": 10,
        "unpaired": 2,
    },
    "two chains": {
        "map": (5, 6), "kernel": (3, 3), "entries": 4, "channels": 7, "sets": 2, "kernels": 4, "interval": 5, "chains": 2,
    },
    "two chains that share an offset, an odd list": {
        "map": (6, 5), "kernel": (3, 1), "entries": 5, "channels": 9, "sets": 2, "kernels": 3, "interval": 4, "chains": 2,
        "unpaired": 5,
    },
    "four chains, the last one with less": {
        "map": (6, 6), "kernel": (3, 3), "entries": 3, "channels": 9, "sets": 1, "kernels": 2, "interval": 3, "chains": 4,
        "weight_rows": 2,
    },
    "stride, padding, dilation": {
        "map": (5, 6), "kernel": (2, 3), "stride": (2, 1), "padding": (1, 2), "dilation": (2, 2), "entries": 3,
        "channels": 16, "sets": 2, "kernels": 5, "signed": False, "offset": 18, "interval": 7, "chains": 2,
    },
    "rows and columns that no window reaches": {
        "map": (6, 5), "kernel": (2, 2), "stride": (3, 2), "entries": 5, "channels": 9, "sets": 2, "kernels": 2,
        "signed": False, "interval": 8,
    },
    "one pixel": {
        "map": (1, 1), "kernel": (1, 1), "entries": 1, "channels": 1, "sets": 1, "kernels": 1, "interval": 1,
    },
    "a cycle a position": {
        "map": (4, 5), "kernel": (2, 2), "entries": 1, "channels": 6, "sets": 2, "kernels": 1, "interval": 1,
    },
    "one lane": {
        "map": (4, 5), "kernel": (2, 2), "entries": 2, "channels": 6, "sets": 2, "kernels": 3, "interval": 11,
    },
    "several weight rows": {
        "map": (3, 4), "kernel": (1, 3), "entries": 2, "weight_rows": 3, "channels": 5, "sets": 3, "kernels": 3,
        "unpaired": 2, "interval": 6,
    },
    "writing takes longer": {
        "map": (5, 5), "kernel": (1, 2), "stride": (2, 2), "entries": 6, "channels": 5, "sets": 2, "kernels": 3,
        "padding": (0, 1), "interval": 4,
    },
    "all at the bound": {
        "map": (2, 4), "kernel": (2, 2), "entries": 2, "channels": 3, "sets": 2, "kernels": 2, "largest": True,
        "interval": 4, "chains": 2,
    },
    "all at the bound, unsigned": {
        "map": (2, 3), "kernel": (2, 2), "entries": 2, "channels": 3, "sets": 2, "kernels": 2, "largest": True,
        "signed": False, "interval": 3,
    },
    "many kernels": {
        "map": (4, 4), "kernel": (2, 2), "entries": 3, "channels": 6, "sets": 1, "kernels": 19, "interval": 20, "largest": True,
    },
}  # fmt: skip


def component(unit):
    weights, kernel_ids = weights_of(unit)
    return WindowConv(
        shape=signed(8) if unit["signed"] else unsigned(8),
        entries=unit["entries"],
        windows=windows_of(unit),
        weights=weights,
        kernel_ids=kernel_ids,
        kernels=unit["kernels"],
        accumulator=signed(accumulator_bits(unit)),
        interval=unit["interval"],
        chains=unit.get("chains", 1),
        offset=unit.get("offset", 10),
        unpaired=unit.get("unpaired", 0),
    )


def run(unit, test_case=None, target=None):
    unit = {"signed": True, **unit}
    tested = component(unit)
    windows = windows_of(unit)
    inside = np.outer(windows.inside(0), windows.inside(1)).ravel()
    last_pixel = windows.pixels_of((unit["kernel"][0] - 1, unit["kernel"][1] - 1))[0]
    assert inside[last_pixel]
    run_bench(
        tested,
        "tests.rtl_templates.list_conv_bench",
        test_case,
        parameters={
            "unit": unit,
            "interval": tested.parts.interval,
            "settling": tested.settling,
            "writes": tested.parts.lists.list_rows,
            "cycles": tested.cycles,
            "latency": tested.latency,
            "waits": any(windows.padding),
            "last_pixel": int(inside[:last_pixel].sum()),
        },
        target=target,
    )


@pytest.mark.parametrize("name", UNITS)
def test_against_a_convolution(name):
    run(UNITS[name])


@pytest.mark.parametrize("name", ["two chains", "stride, padding, dilation", "one pixel"])
def test_as_written_for_ultrascale(name):
    run(UNITS[name] | {"offset": ULTRASCALE.pair_offset}, target=replace(ULTRASCALE, ultra_ram=True))


@pytest.mark.slow
@pytest.mark.parametrize("chains", [1, 2])
def test_a_large_one(chains):
    run(
        {
            "map": (14, 14), "kernel": (5, 5), "entries": 8, "channels": 64, "sets": 8, "kernels": 8, "interval": 11,
            "chains": chains,
        }
    )  # fmt: skip


def test_parts():
    """The example of a 14 x 14 map: of twenty-five lists the thirteenth is cut."""
    parts = WindowParts(Windows((14, 14), (5, 5)), entries=8, weight_rows=1, kernels=8, interval=11, chains=2)
    assert (parts.busy, parts.lanes, parts.cycles, parts.ring) == (108, 10, 1100, 128)
    first, second = parts.parts
    assert (first.offset, first.phase, first.offsets, first.first_row, first.rows) == (0, 0, 13, 0, 12)
    assert (second.offset, second.phase, second.offsets, second.first_row, second.rows) == (12, 2, 13, 2, 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"entries": 0}, "entries must be positive, not 0"),
        ({"kernels": 0}, "kernel IDs must be below 0"),
        ({"interval": 2}, "interval must be at least kernels = 3, not 2"),
        ({"chains": 0}, "each of chains = 0 must have some of a window's 4 rows"),
        ({"chains": 5}, "each of chains = 5 must have some of a window's 4 rows"),
        ({"kernels": 2}, "kernel IDs must be below 2"),
        ({"weights": np.full((4, 1, 5, 2), -128)}, r"weights must be in \[-127, 127\]"),
        ({"weights": np.zeros((3, 1, 5, 2))}, r"weights and kernel IDs must be \(4, weight rows, channels, sets\)"),
    ],
)
def test_refuses(arguments, message):
    made = {
        "shape": signed(8), "entries": 2, "windows": Windows((3, 3), (2, 2)), "weights": np.zeros((4, 1, 5, 2)),
        "kernel_ids": np.full((4, 1, 5, 2), 2), "kernels": 3, "accumulator": signed(20), "interval": 5,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        WindowConv(**(made | arguments))
