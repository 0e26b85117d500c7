"""MAC engines for tests: a layer, what streams into it, and how the planner may serve it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from amaranth.lib import wiring
from numpy.typing import NDArray

from host import reference
from hwgen.elaborate import accelerator
from hwgen.format.network import Conv2d, Input, IntegerNetwork, Linear
from hwgen.format.packed import PackedNetwork
from hwgen.format.shapes import input_tensor, output_of
from hwgen.packing import pack_layer
from hwgen.plan.mac import Request, candidates, with_drain
from hwgen.plan.schedule import Slots, dense_packing
from hwgen.plan.stages import WORD_GAP, Layout, Mac, Narrow, Output, Plan, Stage
from hwgen.plan.stream import Stream, narrowed
from hwgen.sparsify import TileWise
from rtl_templates import timing
from sim.streams import pack
from tests.rtl_templates.layout_samples import shuffled, to_beats
from tests.rtl_templates.units import Expected

WORDS = 5


@dataclass(frozen=True, eq=False)
class Case:
    """A layer on an engine.

    Attributes:
        name: for messages.
        layer: with a bias of zero, which is not the engine's to add.
        map: (channels, height, width) of the input; height and width are 1 for a Linear.
        signed: activations are int8, else uint8.
        entries: length of each position's winner list, or None for values, `lanes` a beat.
        dense: every output channel is a set of its own.
        choose: what the stage must have, such as {"parallel": 2}; the first such candidate is taken.
        banks: instead of the stage's, or None.
        narrow: lanes of a Narrow stage behind the engine, or None.
    """

    name: str
    layer: Linear | Conv2d
    map: tuple[int, int, int]
    signed: bool = True
    entries: int | None = None
    lanes: int = 1
    dense: bool = False
    choose: Mapping[str, int] = field(default_factory=dict)
    banks: int | None = None
    narrow: int | None = None

    @property
    def listed(self) -> bool:
        return self.entries is not None


def linear(inputs: int, outputs: int, density: float = 1.0, seed: int = 1) -> Linear:
    draw = np.random.default_rng(seed)
    mask = draw.random((outputs, inputs)) < density
    weight = (draw.integers(-127, 128, mask.shape) * mask).astype(np.int8)
    return Linear("layer", weight, mask, np.zeros(outputs, np.int32))


def convolution(inputs: int, outputs: int, kernel: tuple[int, int], density: float = 1.0, seed: int = 1, **geometry):
    draw = np.random.default_rng(seed)
    mask = draw.random((outputs, inputs // geometry.get("groups", 1), *kernel)) < density
    weight = (draw.integers(-127, 128, mask.shape) * mask).astype(np.int8)
    return Conv2d("layer", weight, mask, np.zeros(outputs, np.int32), **geometry)


def tile_wise(inputs: int, outputs: int, tile: int, kernel: tuple[int, int] | None = None, **geometry):
    """Three quarters pruned: half of the outputs, and half of the inputs of each tile of the others."""
    draw = np.random.default_rng(2)
    shape = (outputs, inputs, *(kernel or ()))
    mask = TileWise(tile).project(draw.random(shape), 0.75).reshape(shape)
    weight = (draw.integers(-127, 128, shape) * mask).astype(np.int8)
    kind = Linear if kernel is None else Conv2d
    return kind("layer", weight, mask, np.zeros(outputs, np.int32), **geometry)


def stage_of(case: Case) -> tuple[Mac, PackedNetwork]:
    """The planner's stage for a case, and the network that holds its layer alone."""
    shape = (case.map[0],) if isinstance(case.layer, Linear) else case.map
    source = Input(shape, 1.0, case.signed)
    packing = dense_packing(case.layer) if case.dense else pack_layer(case.layer)
    network = IntegerNetwork(source, (case.layer,), np.ones(case.layer.weight.shape[0]))
    stream = Stream(
        channels=case.map[0],
        map=case.map[1:],
        bits=8,
        signed=case.signed,
        layout=tuple(tuple(row) for row in shuffled(case.map[0], case.lanes)),
        most=case.map[0],
        most_word=int(np.prod(case.map)),
        entries=case.entries,
    )
    mode = "dense" if case.dense else "sparse-sparse" if case.listed else "sparse-dense"
    result = output_of(case.layer, input_tensor(source))
    stages: list[Mac] = []
    # The planner offers the smallest engines within a limit: all of them come as it tightens.
    limit = 1 << 20
    while found := list(candidates(Request(case.layer, Slots.of(packing), result, mode, stream, limit, 1 << 20))):
        stages += found
        limit = max(stage.cycles for stage in found) - 1
    stages.sort(key=lambda stage: stage.serial)
    fitting = [stage for stage in stages if all(getattr(stage, name) == value for name, value in case.choose.items())]
    assert fitting, (case.name, [{name: getattr(stage, name) for name in case.choose} for stage in stages])
    stage = fitting[0]
    if case.narrow is not None:
        stage = with_drain(stage, stage.kernels * -(-stage.parallel // case.narrow))
    if case.banks is not None:
        stage = replace(stage, banks=case.banks)
    return stage, PackedNetwork(network, {"layer": pack_layer(case.layer)})


def round_trip(stage: Mac) -> int:
    """Cycles from the start of a group to the moment its bank can be given to another, counted in the source.

    Walker 2, activation 1, weights 4, operands 1, products 1, with lists entry, row and weight 3 more; then the last step,
    a register a level of the tree over the lanes where products are not routed, `done`, `waiting`, the drain,
    `under_way`.
    """
    lanes = stage.multipliers // stage.parallel
    levels = 0 if stage.routed and stage.kernels > 1 else (lanes - 1).bit_length()
    return stage.steps + (12 if stage.stream_lanes is None else 9) + levels + stage.kernels + 1


def starts(stage: Mac, words: int) -> list[int]:
    """First cycle of each group, when input comes a beat a cycle and output is taken at once."""
    beats = stage.window.map[0] * stage.window.map[1] * stage.beats
    groups = stage.window.positions * stage.folds
    result: list[int] = []
    for number in range(words * groups):
        ready = result[-1] + stage.interval if result else 0
        if number and number % groups == 0:
            ready = max(ready + WORD_GAP, number // groups * beats)
        if number >= stage.banks:
            ready = max(ready, result[number - stage.banks] + round_trip(stage))
        result.append(ready)
    return result


def activations(case: Case) -> NDArray[np.int64]:
    """(WORDS, C, H, W) with, for lists, at most `entries` non-zeros at each position; the last words are extreme."""
    draw = np.random.default_rng(len(case.name))
    low, high = (-128, 127) if case.signed else (0, 255)
    x = draw.integers(low, high + 1, (WORDS, *case.map))
    if case.listed:
        order = draw.permuted(np.broadcast_to(np.arange(case.map[0])[:, None, None], x.shape), axis=1)
        # Word 1 has shorter lists than it might.
        x[order >= np.array([case.entries, 1] + [case.entries] * (WORDS - 2))[:, None, None, None, None][:, 0]] = 0
    elif isinstance(case.layer, Linear):
        # Each output's accumulator at either end of its proven range.
        most = np.abs(case.layer.weight.astype(np.int64)).sum(axis=1).argmax()
        positive = case.layer.weight[most] > 0
        x[-1, :, 0, 0], x[-2, :, 0, 0] = np.where(positive, high, low), np.where(positive, low, high)
    x[-3] = np.where(x[-3] > 0, high, np.where(x[-3] < 0, low, 0))
    return x


def to_stream(case: Case, stage: Mac, x: NDArray[np.int64]) -> list[int]:
    pixels = x.transpose(0, 2, 3, 1).reshape(-1, case.map[0])
    if case.entries is None:
        return to_beats(pixels.tolist(), stage.in_layout, 8)
    index_bits = max(1, (case.map[0] - 1).bit_length())
    draw = np.random.default_rng(9)
    beats = []
    for pixel in pixels:
        winners = draw.permutation(np.flatnonzero(pixel))
        entries = [(int(index), int(pixel[index])) for index in winners] + [(0, 0)] * (case.entries - len(winners))
        beats += [index | pack([value], 8) << index_bits for index, value in entries]
    return beats


def unit(case: Case) -> tuple[wiring.Component, Expected]:
    """The engine of a case, with the cycles in which its results must come."""
    stage, packed = stage_of(case)
    bits, layout, parts, latency = stage.accumulator_bits, stage.layout, 1, 0
    stages: tuple[Stage, ...] = (stage,)
    if case.narrow is not None:
        # With the link between the two stages.
        parts, latency = -(-stage.parallel // case.narrow), timing.STREAM_BUFFER_LATENCY + timing.NARROW_LATENCY
        layout = narrowed(stage.layout, case.narrow)
        stages = (stage, _narrow(stage, case.narrow, layout))
    output = Output(lanes=len(layout[0]), bits=bits, signed=True, layout=layout, shape=())
    x = activations(case)
    y = reference.apply(case.layer, x[:, :, 0, 0] if isinstance(case.layer, Linear) else x)
    pixels = y if y.ndim == 2 else y.transpose(0, 2, 3, 1).reshape(-1, y.shape[1])
    beats = to_stream(case, stage, x)
    in_word = len(beats) // WORDS
    levels = (stage.multipliers // stage.parallel - 1).bit_length()
    latency += (
        stage.steps
        + (12 if case.listed else 9)
        + (2 + max(1, levels) if stage.routed and stage.kernels > 1 else levels + 3)
    )
    return accelerator(Plan(board=None, mode="auto", stages=stages, output=output), packed), Expected(
        name=f"{case.name}: {stage}",
        x=beats,
        y=to_beats(pixels.tolist(), layout, bits, nothing=0),
        care=[pack((0 if channel == -1 else -1 for channel in row), bits) for row in layout],
        cycles=[start + beat for start in starts(stage, WORDS) for beat in range(stage.kernels * parts)],
        latency=latency,
        latency_from=in_word - 1,
    )


def _narrow(stage: Mac, lanes: int, layout: Layout) -> Narrow:
    return Narrow(
        name="narrow",
        cycles=0,
        bits=stage.accumulator_bits,
        signed=True,
        lanes_in=stage.parallel,
        lanes_out=lanes,
        layout=layout,
    )
