"""Components with one stream in and one stream out, joined one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from amaranth.hdl import Module
from amaranth.lib import wiring


class Pipeline(wiring.Component):
    """A component made of components.

    Arguments:
        components: (name, component) in the order in which data passes them; each has `x` and `y`, names are unique.

    Members:
        x: of the first component.
        y: of the last.

    Latency: the sum of the components' latencies. Initiation interval: that of the slowest, provided that each buffers
    what those before and behind it do at other times.
    """

    def __init__(self, components: Sequence[tuple[str, wiring.Component]]):
        if not components:
            raise ValueError("components must not be empty")
        seen: set[str] = set()
        for name, component in components:
            if name in seen:
                raise ValueError(f"names of components must be unique, but {name!r} comes twice")
            if not {"x", "y"} <= set(component.signature.members):
                raise ValueError(f"component {name!r} must have streams 'x' and 'y'")
            seen.add(name)
        for (giver, upstream), (taker, downstream) in pairwise(components):
            # A name for the culprit; wiring.connect would only say that some widths differ.
            if upstream.signature.members["y"].flip() != downstream.signature.members["x"]:
                raise ValueError(f"component {taker!r} does not take what component {giver!r} gives")
        self.components = list(components)
        first, last = components[0][1], components[-1][1]
        super().__init__({"x": first.signature.members["x"], "y": last.signature.members["y"]})

    def elaborate(self, platform):
        m = Module()
        upstream = wiring.flipped(self.x)
        for name, component in self.components:
            m.submodules[name] = component
            wiring.connect(m, upstream, component.x)
            upstream = component.y
        wiring.connect(m, upstream, wiring.flipped(self.y))
        return m
