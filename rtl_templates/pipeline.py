"""Components with one stream in and one stream out, joined one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from amaranth.hdl import C, ClockDomain, ClockSignal, DomainRenamer, Module, ResetSignal, Signal, Value
from amaranth.lib import wiring

from rtl_templates.pipe import StreamBuffer


class Pipeline(wiring.Component):
    """A component made of components.

    Arguments:
        components: (name, component) in the order in which data passes them; each has `x` and `y`, names are unique.
        linked: a StreamBuffer between every two components, for those that lie far apart: whether one takes a beat is
            often decided in the same cycle, and that goes no further.
        own_resets: each component's reset comes from a register of its own, since one that reaches all of a large chip
            in a cycle would be the slowest path of it. A component is released a cycle after the one behind it, so that
            nothing is given to who is not yet there; until all are, about three cycles a component, `x` waits.

    Members:
        x: of the first component.
        y: of the last.

    Latency: the sum of the components' latencies, and of the links'. Initiation interval: that of the slowest, provided
    that each buffers what those before and behind it do at other times.
    """

    def __init__(
        self, components: Sequence[tuple[str, wiring.Component]], *, linked: bool = False, own_resets: bool = False
    ):
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
        self.components, self.own_resets = list(components), own_resets
        if linked:
            for place in range(len(components) - 1, 0, -1):
                name, taker = components[place]
                self.components.insert(place, (f"{name}_link", StreamBuffer(taker.x.payload.shape())))
        first, last = components[0][1], components[-1][1]
        super().__init__({"x": first.signature.members["x"], "y": last.signature.members["y"]})

    def elaborate(self, platform):
        m = Module()
        for name, component in self.components:
            m.submodules[name] = DomainRenamer(name)(component) if self.own_resets else component
        for (_, upstream), (_, downstream) in pairwise(self.components):
            wiring.connect(m, upstream.y, downstream.x)
        first, last = self.components[0][1], self.components[-1][1]
        busy = self._resets(m) if self.own_resets else C(0)
        m.d.comb += [
            first.x.payload.eq(self.x.payload),
            first.x.valid.eq(self.x.valid & ~busy),
            self.x.ready.eq(first.x.ready & ~busy),
            self.y.payload.eq(last.y.payload),
            self.y.valid.eq(last.y.valid & ~busy),
            last.y.ready.eq(self.y.ready),
        ]
        return m

    def _resets(self, m: Module) -> Value:
        """Makes the components' clock domains; says while any of them is in reset."""
        # So long that all are in reset at once before the last one, which comes first, is released.
        longest = 2 * len(self.components)
        held = Signal(range(longest + 1), init=longest)
        resetting = Signal()
        m.d.comb += resetting.eq(held != 0)
        with m.If(resetting):
            m.d.sync += held.eq(held - 1)
        before: Value = resetting
        for name, _ in reversed(self.components):
            reset = Signal(name=f"reset_of_{name}", init=1, reset_less=True)
            m.d.sync += reset.eq(before)
            m.domains += ClockDomain(name, local=True)
            m.d.comb += [ClockSignal(name).eq(ClockSignal()), ResetSignal(name).eq(reset)]
            before = reset
        awake = Signal()
        m.d.sync += awake.eq(~(resetting | before))
        return ~awake
