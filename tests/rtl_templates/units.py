"""Several components with one stream in and one stream out in one build, each with what it is expected to do.

A build costs seconds, a small component more in it almost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from sim.bench import run_bench


@dataclass(frozen=True)
class Expected:
    """What a unit is fed and what it gives when nothing stalls.

    Attributes:
        name: for messages.
        x, y: beats.
        care: masks of the defined bits of y, for successive beats and then again.
        cycles: in which each beat of y is taken, counted from the first.
        latency: from the beat `latency_from` of x to the first beat of y.
    """

    name: str
    x: list[int]
    y: list[int]
    care: list[int]
    cycles: list[int]
    latency: int
    latency_from: int


def periodic(offsets: Sequence[int], interval: int, words: int) -> list[int]:
    """Cycles of beats that come `offsets` after the start of a word, `interval` cycles from word to word."""
    return [word * interval + offset for word in range(words) for offset in offsets]


class SideBySide(wiring.Component):
    """Components that share only clock and reset; member `unit_<i>` has the members of component i."""

    def __init__(self, components: Sequence[wiring.Component]):
        self.components = list(components)
        super().__init__({f"unit_{i}": Out(part.signature) for i, part in enumerate(components)})

    def elaborate(self, platform):
        m = Module()
        for index, part in enumerate(self.components):
            m.submodules[f"part_{index}"] = part
            wiring.connect(m, wiring.flipped(getattr(self, f"unit_{index}")), part)
        return m


def check_units(units: Sequence[tuple[wiring.Component, Expected]], target: object = None) -> None:
    """Values under stalls, reset in flight, and exact timing of every unit, written for a target."""
    for _, expected in units:
        assert len(expected.y) == len(expected.cycles), expected.name
    run_bench(
        SideBySide([component for component, _ in units]),
        "tests.rtl_templates.units_bench",
        parameters={"units": [asdict(expected) for _, expected in units]},
        target=target,
    )
