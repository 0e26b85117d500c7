"""The double buffer in front of every engine that reads a map more than once or out of order."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out


class WordBuffer(wiring.Component):
    """Two banks of one word each: one is filled from a stream while the other is read.

        x ---> [bank 0] ---> data[0] .. data[readers - 1]   (one copy of the memory for each reader)
          \\--> [bank 1] --/

    A row holds `beats_per_row` consecutive beats of a position. A position of `beats` beats takes
    ceil(beats / beats_per_row) rows; what its last row lacks is never written, so give it zero weights.

    Arguments:
        payload: shape of a beat.
        positions, beats: a word is `positions` times `beats` beats.
        beats_per_row: beats that one read returns.
        readers: independent read addresses.

    Members:
        x: the stream to store.
        available: the bank under the readers holds a whole word.
        release: strobe: the readers are done with it; `available` falls unless the other bank is full as well.
        address, data: of each reader; `data` follows `address` by one cycle.

    Latency: `available` rises 1 cycle after a word's last beat. Initiation interval: 1 cycle a beat.
    """

    def __init__(self, payload, positions: int, beats: int, beats_per_row: int = 1, readers: int = 1):
        for name, value in (
            ("positions", positions),
            ("beats", beats),
            ("beats_per_row", beats_per_row),
            ("readers", readers),
        ):
            if value < 1:
                raise ValueError(f"{name} must be positive, not {value!r}")
        self.payload, self.positions, self.beats = payload, positions, beats
        self.beats_per_row, self.readers = beats_per_row, readers
        self.rows_per_position = -(-beats // beats_per_row)
        self.rows = positions * self.rows_per_position
        self.address_bits = (self.rows - 1).bit_length()
        row = data.ArrayLayout(payload, beats_per_row)
        super().__init__(
            {
                "x": In(stream.Signature(payload)),
                "available": Out(1),
                "release": In(1),
                "address": In(unsigned(self.address_bits)).array(readers),
                "data": Out(row).array(readers),
            }
        )

    def elaborate(self, platform):
        m = Module()
        full = Signal(2)
        filling, reading = Signal(), Signal()
        beat, column, row = Signal(range(self.beats)), Signal(range(self.beats_per_row)), Signal(self.address_bits)
        write = Signal()
        m.d.comb += [
            self.x.ready.eq(~full.bit_select(filling, 1)),
            write.eq(self.x.valid & self.x.ready),
            self.available.eq(full.bit_select(reading, 1)),
        ]
        last_beat = beat == self.beats - 1
        last_row = row == self.rows - 1
        with m.If(write):
            m.d.sync += [beat.eq(beat + 1), column.eq(column + 1)]
            with m.If(last_beat | (column == self.beats_per_row - 1)):
                m.d.sync += [column.eq(0), row.eq(row + 1)]
            with m.If(last_beat):
                m.d.sync += beat.eq(0)
                with m.If(last_row):
                    m.d.sync += [row.eq(0), filling.eq(~filling), full.bit_select(filling, 1).eq(1)]
        with m.If(self.release):
            m.d.sync += [full.bit_select(reading, 1).eq(0), reading.eq(~reading)]

        for index in range(self.readers):
            memory = Memory(
                shape=data.ArrayLayout(self.payload, self.beats_per_row),
                depth=2 << self.address_bits,
                init=[],
                # Both banks share the memory and are never read and written at the same row.
                attrs={"no_rw_check": 1},
            )
            m.submodules[f"memory_{index}"] = memory
            writer, reader = memory.write_port(granularity=1), memory.read_port()
            m.d.comb += [
                writer.addr.eq(Cat(row, filling)),
                writer.en.eq(write << column),
                reader.addr.eq(Cat(self.address[index], reading)),
                reader.en.eq(1),
                self.data[index].eq(reader.data),
            ]
            for place in range(self.beats_per_row):
                m.d.comb += writer.data[place].eq(self.x.payload)
        return m
