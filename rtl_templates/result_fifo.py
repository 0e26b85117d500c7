"""The FIFO behind a pipeline that nothing stops: places are reserved before what will fill them is computed."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.hdl import ShapeLike
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rtl_templates.target import target


def ram_style(depth: int, platform: object) -> str:
    """The value of the attribute `ram_style` for a memory of that depth."""
    return "distributed" if depth <= target(platform).distributed_depth else "block"


class ResultFifo(wiring.Component):
    """Takes every beat that is written, because its place was reserved; back-pressure ends here.

    Arguments:
        shape: of the payload.
        depth: places at least; rounded up to a power of two.
        burst: places that `room` stands for.

    Members:
        room: `burst` places at least are not reserved yet.
        reserve: strobe: reserves a place.
        write, data: a reserved place is filled.
        y: stream of what was written; valid and payload come from registers.

    Latency: 3 cycles from `write`. Initiation interval: 1 cycle.
    """

    LATENCY = 3

    def __init__(self, shape: ShapeLike, depth: int, burst: int = 1):
        if not 1 <= burst <= depth:
            raise ValueError(f"burst must be 1 to depth = {depth!r}, not {burst!r}")
        self._shape, self._burst = shape, burst
        self.depth = 1 << max(1, ceil_log2(depth))
        super().__init__(
            {
                "room": Out(1),
                "reserve": In(1),
                "write": In(1),
                "data": In(shape),
                "y": Out(stream.Signature(shape)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        # A row is never read while it is written: it counts as stored a cycle later.
        memory = Memory(
            shape=self._shape,
            depth=self.depth,
            init=[],
            attrs={"no_rw_check": 1, "ram_style": ram_style(self.depth, platform)},
        )
        m.submodules.memory = memory
        writer, reader = memory.write_port(), memory.read_port()
        # A beat that leaves is counted a cycle later, since y.ready comes from far away. The beat that is in a register
        # behind the memory makes up for it: one place more than the memory has.
        places = self.depth + 1
        reserved, stored, left = Signal(range(places + 1)), Signal(range(self.depth + 1)), Signal()
        advance, fetch, fetched, read = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            self.room.eq(reserved <= places - self._burst),
            writer.data.eq(self.data),
            writer.en.eq(self.write),
            # Two registers behind the memory: its own and the one of y.
            advance.eq(self.y.ready | ~self.y.valid),
            fetch.eq(advance | ~fetched),
            read.eq(fetch & (stored != 0)),
            reader.en.eq(fetch),
        ]
        m.d.sync += [
            left.eq(self.y.valid & self.y.ready),
            reserved.eq(reserved + self.reserve - left),
            stored.eq(stored + self.write - read),
            writer.addr.eq(writer.addr + self.write),
            reader.addr.eq(reader.addr + read),
        ]
        with m.If(fetch):
            m.d.sync += fetched.eq(read)
        with m.If(advance):
            m.d.sync += [self.y.valid.eq(fetched), self.y.payload.eq(reader.data)]
        return m
