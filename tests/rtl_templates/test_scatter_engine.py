# amaranth: UnusedElaboratable=no
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from amaranth import signed
from amaranth.lib import wiring
from amaranth.sim import Simulator
from numpy.typing import NDArray

from host import reference
from hwgen.elaborate import stage_component
from hwgen.format.network import Conv2d, Input, IntegerNetwork
from hwgen.format.packed import PackedNetwork
from hwgen.format.shapes import input_tensor, output_of
from hwgen.packing import pack_layer
from hwgen.plan.mac import Request
from hwgen.plan.scatter import candidates
from hwgen.plan.schedule import Slots
from hwgen.plan.stages import Output, Plan, Scatter
from hwgen.plan.stream import Stream
from rtl_templates.constant_divider import ConstantDivider
from rtl_templates.map_accumulators import MapAccumulators
from rtl_templates.scatter_engine import Reach, ScatterEngine
from sim.streams import pack
from tests.rtl_templates.layout_samples import shuffled, to_beats
from tests.rtl_templates.mac_units import convolution
from tests.rtl_templates.units import Expected, check_units

WORDS = 5


@dataclass(frozen=True, eq=False)
class Case:
    """A convolution behind `entries` winners of a map; `steps` and `places` are what a word must take and leave."""

    name: str
    layer: Conv2d
    map: tuple[int, int, int]
    entries: int
    steps: int
    places: int
    signed: bool = True
    parallel: int = 1


CASES = [
    # Filling decides: 9 offsets an entry, up to 3 weights in a column, 4 kernels in the only set.
    Case("the usual", convolution(3, 4, (3, 3), 0.3, padding=(1, 1)), (3, 4, 5), 7, 7 * 9 * 3, 4 * 5 * 4),
    # Draining decides.
    Case("one winner", convolution(2, 9, (1, 1)), (2, 3, 4), 1, 1 * 9, 12 * 9),
    # Draining decides by little.
    Case("close", convolution(1, 8, (1, 1)), (1, 3, 4), 10, 10 * 8, 12 * 8, signed=False),
    # Of 3 rows of the kernel 2 can reach an output, of 2 columns 1.
    Case("stride", convolution(2, 3, (3, 2), 0.5, stride=(2, 2)), (2, 7, 6), 5, 5 * 2 * 1 * 2, 9 * 2, parallel=2),
    Case("dilation", convolution(3, 2, (2, 3), dilation=(2, 1), padding=(1, 0)), (3, 4, 3), 4, 4 * 2 * 1 * 2, 4 * 2),
    Case("groups", convolution(4, 6, (2, 2), groups=2), (4, 2, 3), 24, 24 * 2 * 3, 2 * 6, signed=False),
    # All entries add to the same place, cycle by cycle.
    Case("one position", convolution(5, 1, (2, 3)), (5, 2, 3), 11, 11, 1),
    Case("no non-zeros", convolution(2, 3, (2, 1), 0.0), (2, 2, 2), 3, 3, 2 * 3),
    # Most outputs see padding only, and some inputs reach no output.
    Case("sparse outputs", convolution(1, 2, (1, 1), padding=(2, 3), stride=(3, 2)), (1, 3, 5), 6, 6 * 2, 18 * 2),
]  # fmt: skip


def test_equals_the_reference():
    check_units([unit(case) for case in CASES])


@pytest.mark.parametrize("rest", [1, 15, 40])
def test_waits_for_a_slow_sink(rest):
    """Longer than any pause of the benches: the next words are there all the time and must not come through."""
    engine, expected = unit(Case("slow sink", convolution(1, 2, (1, 1)), (1, 1, 2), 1, 2, 4))
    taken: list[int] = []

    async def source(ctx):
        ctx.set(engine.x.valid, 1)
        for beat in expected.x:
            ctx.set(engine.x.payload.as_value(), beat)
            await ctx.tick().until(engine.x.ready)
        ctx.set(engine.x.valid, 0)

    async def sink(ctx):
        for _ in expected.y:
            await ctx.tick().repeat(rest)
            ctx.set(engine.y.ready, 1)
            (beat,) = await ctx.tick().sample(engine.y.payload.as_value()).until(engine.y.valid)
            taken.append(beat)
            ctx.set(engine.y.ready, 0)

    simulator = Simulator(engine)
    simulator.add_clock(1e-6)
    simulator.add_testbench(source)
    simulator.add_testbench(sink)
    simulator.run()
    assert taken == expected.y


def unit(case: Case) -> tuple[wiring.Component, Expected]:
    """The engine of a case, with the cycles in which its results must come."""
    stage, packed = stage_of(case)
    assert (stage.steps, stage.places) == (case.steps, case.places), (case.name, stage)
    bits, lanes = stage.accumulator_bits, stage.parallel
    output = Output(lanes=lanes, bits=bits, signed=True, layout=stage.layout, shape=())
    x, beats = words(case)
    y = reference.apply(case.layer, x)
    begun, cycles = [0, 0], [[-case.places]]
    for _ in range(WORDS):
        # A bank is filled, then drained behind the bank before it, then filled anew; banks take turns.
        first = max(begun[-1] + case.steps + 10, cycles[-1][0] + case.places)
        cycles.append([first + beat for beat in range(case.places)])
        begun.append(max(begun[-1] + case.steps + 11, cycles[-2][0] + case.places + 1))
    flat = [cycle - cycles[1][0] for word in cycles[1:] for cycle in word]
    plan = Plan(board=None, mode="auto", stages=(stage,), output=output)
    return stage_component(plan, packed, stage), Expected(
        name=f"{case.name}: {stage}",
        x=beats,
        y=to_beats(y.transpose(0, 2, 3, 1).reshape(-1, y.shape[1]).tolist(), stage.layout, bits, nothing=0),
        care=[pack((0 if channel == -1 else -1 for channel in row), bits) for row in stage.layout],
        cycles=flat,
        # After reset the accumulators are cleared, which can take longer than the word.
        latency=case.steps + 13 + max(0, case.places - case.entries - 1),
        latency_from=case.entries - 1,
    )


def stage_of(case: Case) -> tuple[Scatter, PackedNetwork]:
    """The planner's stage for a case, and the network that holds its layer alone."""
    source = Input(case.map, 1.0, case.signed)
    packing = pack_layer(case.layer)
    stream = Stream(
        channels=case.map[0],
        map=case.map[1:],
        bits=8,
        signed=case.signed,
        layout=tuple(tuple(row) for row in shuffled(case.map[0], 1)),
        most=case.map[0],
        most_word=case.entries,
        entries=case.entries,
        flat=True,
    )
    result = output_of(case.layer, input_tensor(source))
    request = Request(case.layer, Slots.of(packing), result, "sparse-sparse", stream, 1 << 20, 1 << 20)
    stage = next(stage for stage in candidates(request) if stage.parallel == case.parallel)
    network = IntegerNetwork(source, (case.layer,), np.ones(case.layer.weight.shape[0]))
    return stage, PackedNetwork(network, {"layer": packing})


def words(case: Case) -> tuple[NDArray[np.int64], list[int]]:
    """(WORDS, C, H, W) with `entries` winners each, which may be 0, and their beats, in no particular order."""
    draw = np.random.default_rng(len(case.name))
    low, high = (-128, 127) if case.signed else (0, 255)
    size = int(np.prod(case.map))
    index_bits = (size - 1).bit_length()
    contents = [
        draw.integers(low, high + 1, case.entries),
        draw.choice([low, high], case.entries),
        np.full(case.entries, low),
        draw.integers(0, 2, case.entries),
        np.full(case.entries, high),
    ]
    x, beats = np.zeros((WORDS, size), np.int64), []
    for word, values in zip(x, contents, strict=True):
        winners = draw.permutation(size)[: case.entries]
        word[winners] = values
        beats += [int(index) | pack([word[index]], 8) << index_bits for index in winners]
    return x.reshape(WORDS, *case.map), beats


@pytest.mark.parametrize(
    ("size", "divisor", "scale"), [(100, 7, 1), (64, 8, 3), (1, 1, 1), (5, 9, 2), (13, 1, 4), (500, 27, 5), (6, 6, 2)]
)
def test_divides(size, divisor, scale):
    divider = ConstantDivider(size, divisor, scale)

    async def bench(ctx):
        for number in range(size + 1):
            ctx.set(divider.number, min(number, size - 1))
            await ctx.tick()
            if number:
                wanted = ((number - 1) // divisor * scale, (number - 1) % divisor)
                assert (ctx.get(divider.quotient), ctx.get(divider.remainder)) == wanted

    simulator = Simulator(divider)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_refuses():
    axis = Reach(1, np.ones((1, 1), bool), np.zeros((1, 1), np.int64), np.zeros((1, 1), np.int64))
    good = {
        "shape": signed(8), "entries": 1, "vertical": axis, "horizontal": axis, "kernels": 1,
        "weights": np.ones((1,) * 6, int), "kernel_ids": np.zeros((1,) * 6, int), "accumulator": signed(20),
    }  # fmt: skip
    ScatterEngine(**good)
    for change, message in (
        ({"entries": 0}, "entries must be positive, not 0"),
        ({"weights": np.ones((1, 2), int)}, "weights and kernel IDs must be"),
        ({"weights": np.full((1,) * 6, 128)}, r"weights must be in \[-127, 127\]"),
        ({"kernel_ids": np.ones((1,) * 6, int)}, "kernel IDs must be below 1"),
    ):
        with pytest.raises(ValueError, match=message):
            ScatterEngine(**{**good, **change})
    with pytest.raises(ValueError, match="inside, output and kernel must be"):
        Reach(1, np.ones((2, 1), bool), np.zeros((1, 1), np.int64), np.zeros((1, 1), np.int64))
    with pytest.raises(ValueError, match="places must be positive, not 0"):
        MapAccumulators(signed(8), sets=1, places=0)
    with pytest.raises(ValueError, match="divisor must be positive, not 0"):
        ConstantDivider(3, 0)
