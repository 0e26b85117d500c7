"""Stages with random numbers and contents, of the kinds that plans of the resource model's networks seldom have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from amaranth.hdl import Shape, signed, unsigned

from hwgen.elaborate import stage_component
from hwgen.format.network import (
    Input,
    IntegerNetwork,
    Linear,
)
from hwgen.packing import pack_network
from hwgen.plan import make_plan, scatter, stages
from hwgen.plan.stages import Layout, Stage
from rtl_templates import timing
from rtl_templates.global_winners import GlobalWinners
from rtl_templates.list_conv import ListConv
from rtl_templates.local_winners import LocalWinners
from rtl_templates.parallel_winners import ParallelGlobalWinners
from rtl_templates.requantise import Requantise as Requantiser
from rtl_templates.scatter_engine import Reach, ScatterEngine
from rtl_templates.sub_lists import SubLists
from rtl_templates.target import target_of
from rtl_templates.window_conv import WindowConv
from rtl_templates.window_parts import WindowParts
from rtl_templates.windows import Windows

# Of random stages that are as large as those of a full chip.
LARGE = 2


def rare(seed: int, family: str) -> Iterator[tuple[Stage, Callable[[], Any]]]:
    """A stage of each kind that those networks seldom have, with random numbers and contents."""
    for number, make in enumerate((_lanes, _local_winners, _global_winners, _scatter, _requantise)):
        yield make(np.random.default_rng([seed, number]))
    yield _lanes(np.random.default_rng([seed, 6]), fractions=True)
    yield _window_lanes(np.random.default_rng([seed, 7]), family)
    if seed < LARGE:
        yield _window_lanes(np.random.default_rng([seed, 8]), family, large=True)
    nothing = Linear("output", np.ones((1, 1), np.int8), np.ones((1, 1), bool), np.zeros(1, np.int32))
    packed = pack_network(IntegerNetwork(Input((1,), 1.0, True), (nothing,), np.ones(1)))
    plan = make_plan(packed)
    for stage in _small(np.random.default_rng([seed, 5])):
        yield stage, partial(stage_component, plan, packed, stage)


def _small(rng: np.random.Generator) -> Iterator[Stage]:
    """Pools, rectification, lists of non-zero values and streams without their empty beats."""
    lanes, beats, size = int(rng.choice([1, 2, 4, 8])), int(rng.integers(1, 9)), int(rng.integers(6, 15))
    bits, signed_values = int(rng.choice([8, 8, 16, 20])), bool(rng.integers(0, 2))
    kernel, padding, stride = int(rng.integers(2, 4)), int(rng.integers(0, 2)), int(rng.integers(1, 3))
    for function in ("max", "sum"):
        more = 0 if function == "max" else (kernel * kernel - 1).bit_length()
        values: dict[str, Any] = {"bits": bits, "signed": signed_values, "lanes": lanes, "beats": beats}
        results: dict[str, Any] = {"result_bits": bits + more, "result_signed": signed_values}
        yield stages.StreamPool(
            name="pool", cycles=1, function=function, map=(size, size), kernel=(2, 2), **values, **results
        )
        window = _window(size, kernel, stride, padding, (size + 2 * padding - kernel) // stride + 1)
        yield stages.Pool(name="pool", cycles=1, function=function, window=window, **values, **results)
    yield stages.ReLU(name="relu", cycles=1, bits=bits, signed=True, lanes=lanes)
    channels = int(rng.choice([6, 8, 12, 16, 24, 32]))
    layout = _layout(channels, min(lanes, channels))
    yield stages.Compact(name="compact", cycles=1, size=4, positions=9, signed=signed_values, layout=layout)
    holes = (*layout, *[(-1,) * len(layout[0])] * 2)
    yield stages.DropEmpty(name="drop", cycles=1, bits=bits, signed=signed_values, in_layout=holes, layout=layout)


def _lanes(rng: np.random.Generator, fractions: bool = False) -> tuple[Stage, Callable[[], Any]]:
    """A chain of lanes, each for a kernel offset, or for a few fractions of them."""
    kernel, size = int(rng.choice([1, 2, 2, 3])), int(rng.integers(5, 15))
    padding = int(rng.random() < 0.3) * (kernel // 2)
    outputs = size + 2 * padding - kernel + 1
    channels, entries = int(rng.choice([8, 12, 16, 32, 64])), int(rng.choice([2, 3, 4, 8]))
    sets, kernels = int(rng.integers(1, 9 if kernel < 3 else 5)), int(rng.choice([1, 2, 4, 8, 8, 16]))
    rows, bits, signed_values = int(rng.choice([1, 1, 1, 2])), int(rng.integers(14, 23)), bool(rng.integers(0, 2))
    windows = Windows((size, size), (kernel, kernel), padding=(padding, padding))
    splits = SubLists(entries).splits()
    split = int(rng.choice(splits)) if fractions else 1
    parts = int(rng.integers(1, kernel * kernel * split + 1)) if fractions else 1
    lists = SubLists(entries, split)
    interval = max(lists.reads * rows * parts, kernels)
    shape = (kernel * kernel, rows, channels, sets)
    weights, kernel_ids = rng.integers(-127, 128, shape), rng.integers(0, kernels, shape)
    stage = stages.Lanes(
        name="lanes",
        cycles=max(outputs**2 * interval, windows.pixels * lists.rows * parts),
        multipliers=-(-kernel * kernel * split // parts) * sets,
        mode="sparse-sparse",
        window=_window(size, kernel, 1, padding, outputs),
        signed=signed_values,
        entries=entries,
        index_size=channels,
        sets=sets,
        kernels=kernels,
        list_rows=rows,
        interval=interval,
        parts=parts,
        split=split,
        accumulator_bits=bits,
        weight_bits=0,
        layout=_layout(sets * kernels, sets),
    )
    return stage, lambda: ListConv(
        shape=_shape(signed_values),
        entries=entries,
        windows=windows,
        weights=weights,
        kernel_ids=kernel_ids,
        kernels=kernels,
        accumulator=signed(bits),
        parts=parts,
        split=split,
    )


def _window_lanes(rng: np.random.Generator, family: str, large: bool = False) -> tuple[Stage, Callable[[], Any]]:
    """Lanes that take windows in turn."""
    kernel, size = int(rng.choice([1, 2, 3, 3, 5])), int(rng.integers(6, 15))
    padding = int(rng.random() < 0.3) * (kernel // 2)
    outputs = size + 2 * padding - kernel + 1
    channels, entries = int(rng.choice([8, 16, 32, 64])), int(rng.choice([2, 3, 4, 8]))
    sets, kernels = int(rng.integers(1, 9)), int(rng.choice([1, 2, 4, 8, 8, 16]))
    rows, bits, signed_values = int(rng.choice([1, 1, 1, 2])), int(rng.integers(14, 23)), bool(rng.integers(0, 2))
    windows = Windows((size, size), (kernel, kernel), padding=(padding, padding))
    chains = min(int(rng.choice([1, 1, 2, 2, 3])), kernel * kernel)
    lanes = int(rng.integers(1, 13 - sets // 2)) // chains + 1
    if large:
        kernel, size, padding, outputs, channels, entries, sets, kernels, rows, chains = 5, 14, 0, 10, 64, 8, 8, 8, 1, 2
        lanes = int(rng.integers(8, 13))
        windows = Windows((size, size), (kernel, kernel))
    busy = WindowParts(windows, entries, rows, kernels, kernels, chains).busy
    parts = WindowParts(windows, entries, rows, kernels, max(kernels, -(-busy // lanes)), chains)
    unpaired = int(rng.integers(0, chains * parts.lanes + 1))
    shape = (kernel * kernel, rows, channels, sets)
    weights, kernel_ids = rng.integers(-127, 128, shape), rng.integers(0, kernels, shape)
    stage = stages.WindowLanes(
        name="lanes",
        cycles=parts.cycles,
        multipliers=chains * parts.lanes * sets,
        mode="sparse-sparse",
        window=_window(size, kernel, 1, padding, outputs),
        signed=signed_values,
        entries=entries,
        index_size=channels,
        sets=sets,
        kernels=kernels,
        list_rows=rows,
        interval=parts.interval,
        chains=chains,
        unpaired=unpaired,
        accumulator_bits=bits,
        weight_bits=0,
        layout=_layout(sets * kernels, sets),
    )
    return stage, lambda: WindowConv(
        shape=_shape(signed_values),
        entries=entries,
        windows=windows,
        weights=weights,
        kernel_ids=kernel_ids,
        kernels=kernels,
        accumulator=signed(bits),
        interval=parts.interval,
        chains=chains,
        unpaired=unpaired,
        offset=target_of(family).pair_offset,
    )


def _local_winners(rng: np.random.Generator) -> tuple[Stage, Callable[[], Any]]:
    channels = int(rng.choice([8, 12, 16, 24, 32, 48, 64]))
    emit, k = str(rng.choice(["values", "entries", "lists", "lists"])), max(1, channels // int(rng.choice([4, 8])))
    units = int(rng.choice([1, 1, 2, 3, 4, timing.search_steps(channels, emit)]))
    emitters = min(k, int(rng.choice([1, 2, k]))) if emit == "lists" else 1
    layout, signed_values = _layout(channels, int(rng.choice([1, 2, 4, 8, channels]))), bool(rng.integers(0, 2))
    stage = stages.LocalWinners(
        name="winners",
        cycles=1,
        k=k,
        units=units,
        emitters=emitters,
        positions=9,
        signed=signed_values,
        emit=emit,
        layout=layout,
    )
    return stage, lambda: LocalWinners(layout, _shape(signed_values), k, emit, units, emitters)


def _global_winners(rng: np.random.Generator) -> tuple[Stage, Callable[[], Any]]:
    channels = int(rng.choice([8, 16, 32, 100, 300]))
    positions = 1 if channels >= 100 else int(rng.integers(4, 51))
    parallel, signed_values = rng.random() < 0.6, bool(rng.integers(0, 2))
    lanes, units = (int(rng.choice([2, 4, 8])), int(rng.integers(2, 5))) if parallel else (1, 1)
    emit = "entries" if parallel else str(rng.choice(["values", "entries"]))
    layout, k = _layout(channels, lanes), max(1, channels * positions // int(rng.choice([4, 10])))
    stage = stages.GlobalWinners(
        name="winners",
        cycles=1,
        k=k,
        units=units,
        positions=positions,
        signed=signed_values,
        emit=emit,
        layout=layout,
    )
    arguments = (layout, positions, _shape(signed_values), k, emit)
    return stage, lambda: ParallelGlobalWinners(*arguments, units) if parallel else GlobalWinners(*arguments)


def _scatter(rng: np.random.Generator) -> tuple[Stage, Callable[[], Any]]:
    kernel, size, stride = int(rng.choice([1, 3, 3, 5])), int(rng.integers(5, 11)), int(rng.choice([1, 1, 2]))
    padding = int(rng.random() < 0.4) * (kernel // 2)
    outputs = (size + 2 * padding - kernel) // stride + 1
    channels, parallel, folds = int(rng.choice([4, 8, 16])), int(rng.integers(1, 7)), int(rng.integers(1, 4))
    kernels, rows, bits = int(rng.choice([1, 2, 4])), int(rng.choice([1, 1, 2])), int(rng.integers(14, 22))
    signed_values, entries = bool(rng.integers(0, 2)), int(rng.integers(4, 41))
    window = _window(size, kernel, stride, padding, outputs)
    shape = (channels, kernel, kernel, rows, folds, parallel)
    weights, kernel_ids = rng.integers(-127, 128, shape), rng.integers(0, kernels, shape)
    vertical, horizontal = (
        Reach(window.size[axis], table.inside, table.output, table.kernel)
        for axis in (0, 1)
        for table in (scatter.reach(window, axis),)
    )
    stage = stages.Scatter(
        name="scatter",
        cycles=1,
        multipliers=parallel,
        mode="sparse-sparse",
        window=window,
        signed=signed_values,
        channels=channels,
        entries=entries,
        sets=parallel * folds,
        kernels=kernels,
        parallel=parallel,
        folds=folds,
        list_rows=rows,
        steps=1,
        places=outputs**2 * folds * kernels,
        accumulator_bits=bits,
        weight_bits=0,
        layout=_layout(parallel * folds * kernels, parallel),
    )
    return stage, lambda: ScatterEngine(
        shape=_shape(signed_values),
        entries=entries,
        vertical=vertical,
        horizontal=horizontal,
        weights=weights,
        kernel_ids=kernel_ids,
        kernels=kernels,
        accumulator=signed(bits),
    )


def _requantise(rng: np.random.Generator) -> tuple[Stage, Callable[[], Any]]:
    lanes, beats, bits = int(rng.choice([1, 2, 4, 8, 16])), int(rng.choice([1, 2, 4, 8, 16])), int(rng.integers(14, 26))
    layout, signed_values = _layout(lanes * beats, lanes), bool(rng.integers(0, 2))
    multipliers = [int(m) for m in rng.integers(1 << 14, 1 << 16, lanes * beats)]
    biases = [int(b) for b in rng.integers(-(1 << (bits - 4)), 1 << (bits - 4), lanes * beats)]
    shift = bits + int(rng.integers(6, 10))
    stage = stages.Requantise(
        name="requantise",
        cycles=1,
        multipliers=lanes,
        bits=bits,
        in_signed=True,
        signed=signed_values,
        layout=layout,
        bias_of="layer",
    )
    return stage, lambda: Requantiser(layout, multipliers, biases, shift, signed(bits), _shape(signed_values))


def _window(size: int, kernel: int, stride: int, padding: int, outputs: int) -> stages.Window:
    return stages.Window(
        map=(size, size),
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(padding, padding),
        dilation=(1, 1),
        size=(outputs, outputs),
    )


def _layout(channels: int, lanes: int) -> Layout:
    places = [*range(channels), *[-1] * (-channels % lanes)]
    return tuple(tuple(places[start : start + lanes]) for start in range(0, len(places), lanes))


def _shape(is_signed: bool) -> Shape:
    return signed(8) if is_signed else unsigned(8)
