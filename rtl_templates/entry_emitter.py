"""From the marked values of a position to a list of (index, value)."""

from __future__ import annotations

from amaranth import C, Cat, Module, Mux, Shape, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from rtl_templates import streams
from rtl_templates.pipe import StreamBuffer
from rtl_templates.trees import any_of


def marked(shape: Shape, channels: int) -> data.StructLayout:
    """A position with marks: its values, which of them come first, how many those are, and which come after them."""
    return data.StructLayout(
        {
            "values": data.ArrayLayout(shape, channels),
            "first": channels,
            "first_count": range(channels + 1),
            "then": channels,
        }
    )


class EntryEmitter(wiring.Component):
    """Emits a fixed number of entries: those marked `first`, then those marked `then`, each by increasing index.

    Two levels keep the paths short: each group of channels picks its own lowest mark, then the lowest group with a
    mark is picked.

        marks --> lowest of each group --> its (index, value) --|register|--> the lowest group's --> StreamBuffer

    Arguments:
        shape: of a value.
        channels: values of a position.
        size: entries of a position; those beyond the marks are (0, 0).

    Members:
        x: stream of marked positions.
        y: list stream.

    Latency: 3 cycles to the first entry. Initiation interval: `size` cycles a position.
    """

    LATENCY = 3

    def __init__(self, shape: Shape, channels: int, size: int):
        if size < 1:
            raise ValueError(f"size must be a positive number of entries, not {size!r}")
        self._channels, self._size = channels, size
        super().__init__(
            {"x": In(stream.Signature(marked(shape, channels))), "y": Out(streams.entries(shape, channels))}
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        entry = self.y.payload.shape()
        m.submodules.buffer = buffer = StreamBuffer(entry)
        wiring.connect(m, buffer.y, wiring.flipped(self.y))
        advance = buffer.x.ready

        position = Signal(self.x.payload.shape())
        emitted = Signal(range(self._size))
        busy, last = Signal(), Signal()
        m.d.comb += [
            last.eq(emitted == self._size - 1),
            self.x.ready.eq(~busy | (last & advance)),
        ]

        group_size = max(1, round(self._channels**0.5))
        groups = [range(i, min(i + group_size, self._channels)) for i in range(0, self._channels, group_size)]
        marks = Signal(self._channels)
        waiting, picked, picked_before = Signal(len(groups)), Signal(len(groups)), Signal(len(groups))
        m.d.comb += [
            marks.eq(Mux(position.first_count == 0, position.then, position.first)),
            waiting.eq(Cat(marks[group.start : group.stop].any() for group in groups)),
            picked.eq(waiting & -waiting),
        ]
        candidates = []
        taken = []
        for number, group in enumerate(groups):
            inside = marks[group.start : group.stop]
            lowest = Signal(len(group), name=f"lowest_{number}")
            candidate = Signal(entry.size, name=f"candidate_{number}")
            m.d.comb += lowest.eq(inside & -inside)
            index_bits = len(self.y.payload.index)
            entries = [
                Cat(C(channel, index_bits), position.values[channel]) & lowest[lane].replicate(entry.size)
                for lane, channel in enumerate(group)
            ]
            with m.If(advance):
                m.d.sync += candidate.eq(any_of(entries))
            candidates.append(candidate & picked_before[number].replicate(entry.size))
            taken.append(lowest & picked[number].replicate(len(group)))

        valid = Signal()
        m.d.comb += [buffer.x.valid.eq(valid), buffer.x.payload.eq(any_of(candidates))]
        with m.If(advance):
            m.d.sync += [valid.eq(busy), picked_before.eq(picked)]
            with m.If(busy):
                m.d.sync += [
                    emitted.eq(emitted + 1),
                    position.first.eq(position.first & ~Cat(taken)),
                    position.then.eq(position.then & ~Cat(taken)),
                ]
                with m.If(position.first_count != 0):
                    m.d.sync += position.first_count.eq(position.first_count - 1)
        with m.If(self.x.ready):
            m.d.sync += [busy.eq(self.x.valid), emitted.eq(0), position.eq(self.x.payload)]
        return m
