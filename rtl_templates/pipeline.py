"""Components with one stream in and one stream out, joined one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Module
from amaranth.lib import wiring


class Pipeline(wiring.Component):
    """A component made of components.

    Arguments:
        components: (name, component) in the order in which data passes them; each has `x` and `y`, names are unique.

    Members:
        x: of the first component.
        y: of the last.
    """

    def __init__(self, components: Sequence[tuple[str, wiring.Component]]):
        if not components:
            raise ValueError("components must not be empty")
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
