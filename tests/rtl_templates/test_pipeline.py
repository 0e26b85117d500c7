# amaranth: UnusedElaboratable=no
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from amaranth import signed, unsigned

from rtl_templates import streams
from rtl_templates.drop_empty import DropEmpty
from rtl_templates.narrow import Narrow
from rtl_templates.pipe import StreamBuffer
from rtl_templates.pipeline import Pipeline
from rtl_templates.relu import ReLU
from rtl_templates.word_buffer import WordBuffer
from sim.streams import pack
from tests.rtl_templates.units import Expected, check_units, periodic

LAYOUT = [[0, 3, 1, -1], [-1, -1, -1, -1], [4, -1, 5, 2]]
POSITIONS = 30


def test_passes_through_every_component():
    shape = signed(6)
    x = np.random.default_rng(8).integers(-32, 32, (POSITIONS, 3, 4))
    y = np.maximum(x[:, [0, 2]], 0).reshape(-1, 2)
    beats = [pack(beat, 6) for beat in x.reshape(-1, 4).tolist()]
    long, awake, linked = (
        Pipeline(
            [("drop", DropEmpty(LAYOUT, shape)), ("rectify", ReLU(shape, 4)), ("narrow", Narrow(shape, 4, 2))],
            linked=linked,
            own_resets=own_resets,
        )
        for linked, own_resets in ((False, False), (False, True), (True, True))
    )
    alone = Pipeline([("buffer", StreamBuffer(streams.value_beat(shape, 4)))])
    check_units(
        [
            # The dropped beat leaves the narrower time for the second half of the one before.
            (long, expected("long", beats, [pack(beat, 6) for beat in y.tolist()], range(4), 4, 1 + 1 + 2)),
            (awake, expected("own resets", beats, [pack(beat, 6) for beat in y.tolist()], range(4), 4, 1 + 1 + 2)),
            (linked, expected("linked", beats, [pack(beat, 6) for beat in y.tolist()], range(4), 4, 1 + 1 + 2 + 2)),
            (alone, expected("alone", beats, beats, range(3), 3, 1)),
        ]
    )


def expected(name: str, x: list[int], y: list[int], offsets: Sequence[int], interval: int, latency: int) -> Expected:
    cycles = periodic(offsets, interval, POSITIONS)
    return Expected(name=name, x=x, y=y, care=[-1], cycles=cycles, latency=latency, latency_from=0)


def test_has_the_streams_of_its_ends():
    pipeline = Pipeline([("rectify", ReLU(signed(8), 6, unsigned(7))), ("narrow", Narrow(unsigned(7), 6, 2))])
    assert pipeline.x.payload.shape() == streams.value_beat(signed(8), 6)
    assert pipeline.y.payload.shape() == streams.value_beat(unsigned(7), 2)


@pytest.mark.parametrize(
    ("components", "message"),
    [
        ([], "components must not be empty"),
        ([("a", StreamBuffer(8)), ("a", StreamBuffer(8))], "names of components must be unique, but 'a' comes twice"),
        ([("a", StreamBuffer(8)), ("mute", WordBuffer(8, 1, 1))], "component 'mute' must have streams 'x' and 'y'"),
        (
            [("a", ReLU(signed(8), 6)), ("b", ReLU(signed(8), 3))],
            "component 'b' does not take what component 'a' gives",
        ),
    ],
)
def test_refuses(components, message):
    with pytest.raises(ValueError, match=message):
        Pipeline(components)
