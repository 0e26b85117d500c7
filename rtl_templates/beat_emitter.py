"""From the winners of a position to the beats of a value stream."""

from __future__ import annotations

from itertools import pairwise

from amaranth import Module, Shape, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from rtl_templates import streams, timing
from rtl_templates.layouts import channel_count, checked
from rtl_templates.pipe import StreamBuffer
from rtl_templates.position_store import PositionStore
from rtl_templates.streams import Layout


class BeatEmitter(wiring.Component):
    """Stores the beats of positions, and emits them again with the losers zeroed.

    Arguments:
        layout: of the stream y; lanes that carry nothing are 0.
        shape: of a value.
        ahead: positions of which beats may have been stored when one is emitted, that one left out.

    Members:
        write, values: strobe and beat to store.
        x: stream of the winners of each position, a bit a channel.
        y: value stream.

    Latency: 3 cycles to the first beat. Initiation interval: a position in as many cycles as it has beats.
    """

    LATENCY = 3

    def __init__(self, layout: Layout, shape: Shape, ahead: int):
        self._layout, self._shape = checked(layout), shape
        self._positions = timing.stored_positions(ahead, "values")
        values = streams.values(shape, len(self._layout[0]))
        super().__init__(
            {
                "write": In(1),
                "values": In(streams.value_beat(shape, len(self._layout[0]))),
                "x": In(stream.Signature(channel_count(self._layout))),
                "y": Out(values),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.store = store = PositionStore(self._layout, self._shape, self._positions)
        m.submodules.buffer = buffer = StreamBuffer(self.y.payload.shape())
        wiring.connect(m, buffer.y, wiring.flipped(self.y))

        rows = [Signal(len(row), name=f"winners_{number}") for number, row in enumerate(self._layout)]
        winners, position, emitted = Signal.like(rows[0]), Signal.like(store.position), Signal(range(len(rows)))
        busy, last, read, proceed = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            store.write.eq(self.write),
            store.values.eq(self.values),
            store.beat.eq(emitted),
            store.position.eq(position),
            store.enable.eq(proceed),
            proceed.eq(buffer.x.ready | ~read),
            last.eq(emitted == len(rows) - 1),
            self.x.ready.eq(~busy | (last & proceed)),
            buffer.x.valid.eq(read),
            *(
                buffer.x.payload[lane].eq(store.row[lane].as_unsigned() & winners[lane].replicate(self._shape.width))
                for lane in range(len(winners))
            ),
        ]
        with m.If(proceed):
            m.d.sync += [read.eq(busy), winners.eq(rows[0])]
        with m.If(busy & proceed):
            m.d.sync += [emitted.eq(emitted + 1), position.eq(position + last)]
            # Shifting costs one multiplexer a bit; choosing a row would cost one a row.
            m.d.sync += [row.eq(following) for row, following in pairwise(rows)]
        with m.If(self.x.ready):
            m.d.sync += [busy.eq(self.x.valid), emitted.eq(0)]
            for row, channels in zip(rows, self._layout, strict=True):
                for lane, channel in enumerate(channels):
                    m.d.sync += row[lane].eq(0 if channel == -1 else self.x.payload[channel])
        return m
