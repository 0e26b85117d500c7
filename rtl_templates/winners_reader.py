"""From a stored word and its threshold to the list of its winners."""

from __future__ import annotations

from amaranth import Array, Cat, Module, Mux, Shape, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl_templates import streams
from rtl_templates.constant_table import ConstantTable
from rtl_templates.layouts import channel_count, channel_places, checked
from rtl_templates.pipe import StreamBuffer
from rtl_templates.streams import Layout
from rtl_templates.threshold_search import rank, threshold
from rtl_templates.word_buffer import WordBuffer


class WinnersReader(wiring.Component):
    """Stores words, reads each in torch's order, one value a cycle, and keeps what its threshold says.

        x --> WordBuffer --> value > or = threshold? --> memory of two lists --> y

    A list leaves once it is complete. So nothing stalls the reading, and when a list leaves depends on no data.

    Arguments:
        layout: of the stream x.
        positions: of a word.
        shape: of a value, signed or unsigned.
        k: winners, at most the values of a word.
        all_values: a list has every value of a word, the losers as zeros, instead of the winners alone.

    Members:
        x: value stream.
        threshold: stream of thresholds, one a word.
        y: list stream, in torch's order; an index is channel * positions + position.

    Latency: from a threshold to its list's first entry: the values of a word + 9 cycles.
    Initiation interval: a word in its values + 6 cycles, or its beats where there are more.
    """

    def __init__(self, layout: Layout, positions: int, shape: Shape, k: int, *, all_values: bool = False):
        self._layout = checked(layout)
        self._positions, self._shape, self._k, self._all = positions, shape, k, all_values
        self._count = channel_count(self._layout) * positions
        self._entries = self._count if all_values else k
        super().__init__(
            {
                "x": In(streams.values(shape, len(self._layout[0]))),
                "threshold": In(stream.Signature(threshold(shape, k))),
                "y": Out(streams.entries(shape, self._count)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        beats, lanes = len(self._layout), len(self._layout[0])
        m.submodules.words = words = WordBuffer(self.x.payload.shape(), self._positions, beats)
        wiring.connect(m, wiring.flipped(self.x), words.x)

        # Where each channel lies in a position: the beat above the lane.
        lane_bits = (lanes - 1).bit_length()
        places = [beat << lane_bits | lane for beat, lane in channel_places(self._layout)]
        m.submodules.places = table = ConstantTable([[place] for place in places])

        # Reading: place of the channel, address, row, value, comparison, entry.
        channel, position, start = (
            Signal(range(len(places))),
            Signal(range(self._positions)),
            Signal(words.address_bits),
        )
        start_before = Signal.like(start)
        lane = [Signal(max(1, lane_bits), name=f"lane_{age}") for age in range(3)]
        valid = Signal(5)
        reading, issue = Signal(), Signal()
        limit = Signal(threshold(self._shape, self._k))
        candidate, compared = Signal(self._shape), Signal(self._shape)
        above, tie = Signal(), Signal()
        place = table.constants[0]
        m.d.comb += [
            table.row.eq(channel),
            table.enable.eq(1),
            lane[0].eq(place[:lane_bits]),
        ]
        m.d.sync += [
            valid.eq((valid << 1) | issue),
            start_before.eq(start),
            words.address[0].eq(start_before + (place >> lane_bits)),
            lane[1].eq(lane[0]),
            lane[2].eq(lane[1]),
            candidate.eq(Array(words.data[0][0][i] for i in range(lanes))[lane[2]]),
            compared.eq(candidate),
            above.eq(rank(candidate, self._shape) > limit.rank),
            tie.eq(rank(candidate, self._shape) == limit.rank),
        ]
        with m.If(issue):
            m.d.sync += [position.eq(position + 1), start.eq(start + beats)]
            with m.If(position == self._positions - 1):
                m.d.sync += [position.eq(0), start.eq(0), channel.eq(channel + 1)]
                with m.If(channel == len(places) - 1):
                    m.d.sync += [channel.eq(0), issue.eq(0)]

        # The lists: one is written while the other leaves.
        entry = self.y.payload.shape()
        entry_bits = (self._entries - 1).bit_length()
        # A list is read once it is complete.
        m.submodules.lists = lists = Memory(shape=entry.size, depth=2 << entry_bits, init=[], attrs={"no_rw_check": 1})
        write, read = lists.write_port(), lists.read_port()
        index, found, fill = Signal.like(self.y.payload.index), Signal(range(max(2, self._entries))), Signal()
        wins, kept, ends, ended, complete = Signal(), Signal(), Signal(), Signal(), Signal(2)
        m.d.comb += [
            words.release.eq(ended),
            wins.eq(above | (tie & (limit.ties != 0))),
            kept.eq(1 if self._all else wins),
            ends.eq(valid[-1] & (index == self._count - 1)),
            # With its threshold a word is there.
            self.threshold.ready.eq(~reading & ~complete.bit_select(fill, 1)),
        ]
        m.d.sync += [
            write.en.eq(valid[-1] & kept),
            write.addr.eq(Cat(found[:entry_bits], fill)),
            write.data.eq(Cat(index, Mux(wins, compared, 0) if self._all else compared)),
            ended.eq(ends),
        ]
        with m.If(valid[-1]):
            m.d.sync += index.eq(Mux(ends, 0, index + 1))
            with m.If(kept):
                m.d.sync += found.eq(Mux(ends, 0, found + 1))
            with m.If(tie & (limit.ties != 0)):
                m.d.sync += limit.ties.eq(limit.ties - 1)
        with m.If(self.threshold.valid & self.threshold.ready):
            m.d.sync += [reading.eq(1), issue.eq(1), limit.eq(self.threshold.payload)]
        with m.If(ends):
            m.d.sync += [reading.eq(0), found.eq(0), fill.eq(~fill)]
        with m.If(ended):
            # Its last entry is being written.
            m.d.sync += complete.bit_select(~fill, 1).eq(1)

        m.submodules.buffer = buffer = StreamBuffer(entry)
        wiring.connect(m, buffer.y, wiring.flipped(self.y))
        leaving, left, read_valid, last = Signal(), Signal(range(max(2, self._entries))), Signal(), Signal()
        m.d.comb += [
            last.eq(left == self._entries - 1),
            read.addr.eq(Cat(left[:entry_bits], leaving)),
            read.en.eq(buffer.x.ready),
            buffer.x.valid.eq(read_valid),
            buffer.x.payload.as_value().eq(read.data),
        ]
        with m.If(buffer.x.ready):
            m.d.sync += read_valid.eq(complete.bit_select(leaving, 1))
            with m.If(complete.bit_select(leaving, 1)):
                m.d.sync += left.eq(left + 1)
                with m.If(last):
                    m.d.sync += [left.eq(0), leaving.eq(~leaving), complete.bit_select(leaving, 1).eq(0)]
        return m
