"""From entries one a beat to whole lists."""

from __future__ import annotations

from amaranth import Module, Mux, Shape, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from rtl_templates import streams


class ListGatherer(wiring.Component):
    """Gathers the entries of a list in a register.

    Arguments:
        shape: of a value.
        channels: values of a position.
        size: entries of a list that go into the register, at least 1.
        dropped: entries that follow them in every list and are left out.

    Members:
        x: list stream of `size + dropped` entries a list.
        y: stream of whole lists, the first entry first.

    Latency: 1 cycle from a list's last entry. Initiation interval: a list in `size + dropped` cycles.
    """

    def __init__(self, shape: Shape, channels: int, size: int, dropped: int = 0):
        self._size, self._entries = size, size + dropped
        super().__init__(
            {
                "x": In(streams.entries(shape, channels)),
                "y": Out(stream.Signature(data.ArrayLayout(streams.entry(shape, channels), size))),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        number, kept, last = Signal(range(self._entries)), Signal(), Signal()
        gathered = self.y.payload
        m.d.comb += [
            kept.eq(number < self._size),
            last.eq(number == self._entries - 1),
            # The list must stay as it is until it is taken.
            self.x.ready.eq(~self.y.valid | self.y.ready),
        ]
        with m.If(self.y.ready):
            m.d.sync += self.y.valid.eq(0)
        with m.If(self.x.valid & self.x.ready):
            m.d.sync += number.eq(Mux(last, 0, number + 1))
            with m.If(number == self._size - 1):
                m.d.sync += self.y.valid.eq(1)
            with m.If(kept):
                # Shifting costs no logic.
                m.d.sync += [gathered[i].eq(gathered[i + 1]) for i in range(self._size - 1)]
                m.d.sync += gathered[self._size - 1].eq(self.x.payload)
        return m
