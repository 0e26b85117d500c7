"""The windows of a convolution, one a cycle, each with all its activations at once."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from amaranth.hdl import Array, Cat, Module, Mux, Shape, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl_templates import streams, timing
from rtl_templates.mac_engine import delayed
from rtl_templates.result_fifo import ram_style

Pair = tuple[int, int]


@dataclass(frozen=True)
class Blocks:
    """The blocks of a map: the positions of a convolution that one window of the pool behind it covers.

    Attributes:
        map: rows and columns of the input.
        kernel, stride: of the convolution, without padding or dilation.
        pool: window and stride of the pool; (1, 1) without one.
    """

    map: Pair
    kernel: Pair
    stride: Pair
    pool: Pair

    def __post_init__(self):
        for name in ("kernel", "stride", "pool"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)!r}")
        if any(extent > size for extent, size in zip(self.extent, self.map, strict=True)):
            raise ValueError(f"a block of {self.extent!r} pixels does not fit into a map of {self.map!r}")

    @property
    def step(self) -> Pair:
        """Pixels from one block to the next."""
        return (self.stride[0] * self.pool[0], self.stride[1] * self.pool[1])

    @property
    def extent(self) -> Pair:
        """Pixels of a block."""
        down, right = (timing.block_extent(*axis) for axis in zip(self.kernel, self.stride, self.pool, strict=True))
        return (down, right)

    @property
    def count(self) -> Pair:
        """Blocks of the map: rows and columns of the result."""
        down, right = (
            (size - extent) // step + 1 for size, extent, step in zip(self.map, self.extent, self.step, strict=True)
        )
        return (down, right)

    @property
    def positions(self) -> int:
        """Of a block."""
        return self.pool[0] * self.pool[1]


class WindowSweep(wiring.Component):
    """Stores rows as they come, and goes through the map block by block, in a block position by position.

        x -> [bank 0] --.
             [bank 1] --|-> rotate -> coming block -> current block -> position -> taps
               ...      |     (shifted in)   (copied)    (multiplexer)
             [bank n] --'

    Row r lies in bank r modulo n, a whole number of block steps that covers a block, so that one read of all banks
    yields some columns of a block; every bank has room for `_RING` rows. The columns are shifted into the coming block
    while the positions of the current one are gone through, so neither rows nor words cost a cycle in between.

    Arguments:
        shape: of an activation in the stream.
        taps: of an activation; holds all that come.
        channels: of the map.
        blocks: the positions.
        pixels: a beat; divides the columns of the map.
        pace: cycles a block, at least its positions.
        reserved: cycles at the start of each block in which a place for its result is reserved.

    Members:
        x: value stream of the map, `pixels` neighbours a beat, all channels of the first, then of the next.
        room: places for the result of a block are free.
        reserve: strobe: one is taken.
        taps: the window, in the order of a torch weight (channel, row, column).
        valid, first, last: a position; the first and the last of its block.

    Latency: from the last beat of a block's rows (or of a step's, where these are more) to its first taps:
    `timing.WINDOW_SWEEP_LATENCY` and the reads of the block. Initiation interval: 1 cycle a beat; 1 cycle a position; a
    word in `timing.window_sweep_interval`.
    """

    # From the start of a block to its first taps.
    LATENCY = 5

    # Rows of each bank, a power of two: those under a block, those of the next word's first, and what comes early.
    _RING = 4

    def __init__(
        self,
        shape: Shape,
        taps: Shape,
        *,
        channels: int,
        blocks: Blocks,
        pixels: int,
        pace: int,
        reserved: int,
    ):
        if channels < 1:
            raise ValueError(f"channels must be positive, not {channels!r}")
        if pixels < 1 or blocks.map[1] % pixels:
            raise ValueError(f"pixels must divide the {blocks.map[1]} columns of the map, not be {pixels!r}")
        if not 1 <= max(reserved, blocks.positions) <= pace:
            raise ValueError(f"pace must be at least {max(reserved, blocks.positions)}, not {pace!r}")
        self.shape, self.tap_shape, self.channels, self.blocks = shape, taps, channels, blocks
        self.pixels, self.pace, self.reserved = pixels, pace, reserved
        # One read yields a part of a beat where a block steps by less than a beat.
        self._columns = gcd(pixels, blocks.step[1])
        self._parts = pixels // self._columns
        self._reads = timing.block_reads(blocks.kernel[1], blocks.stride[1], blocks.pool[1], pixels)
        self._phases = -(-blocks.extent[0] // blocks.step[0])
        self._banks = self._phases * blocks.step[0]
        self._beats = blocks.map[1] // pixels
        self.first_reads = self._reads[0]
        super().__init__(
            {
                "x": In(streams.values(shape, pixels * channels)),
                "room": In(1),
                "reserve": Out(1),
                "taps": Out(data.ArrayLayout(taps, channels * blocks.kernel[0] * blocks.kernel[1])),
                "valid": Out(1),
                "first": Out(1),
                "last": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        blocks, banks = self.blocks, self._banks
        # Rows that are held, and those of them that can be read already: a write takes a cycle more.
        stored, released = Signal(range(banks + 1)), Signal(range(banks + 1))
        held, ready = Signal(range(self._RING * banks + 1)), Signal(range(self._RING * banks + 1))
        m.d.sync += [held.eq(held + stored - released), ready.eq(ready + delayed(m, stored, 1, "stored") - released)]
        m.d.comb += self.x.ready.eq(held < self._RING * banks - (banks - blocks.extent[0]))
        write = self._writer(m, stored)

        read, start, turn = Signal(), Signal(), Signal()
        # A block row releases a whole step, which may be more than it reads.
        enough = ready >= max(blocks.extent[0], blocks.step[0])
        place, part, phase, slot = self._sequence(m, enough, read, start, turn, released)

        # Stages of a read: memory, register, coming block.
        raw = []
        for bank in range(banks):
            ring = Signal(range(self._RING), name=f"slot_{bank}")
            m.d.comb += ring.eq(slot + (phase > bank // blocks.step[0]))
            raw.append(self._bank(m, platform, bank, write, Cat(place, ring)))
        read, turn, part = delayed(m, read, 2, "read"), delayed(m, turn, 2, "turn"), delayed(m, part, 2, "part")
        copy = delayed(m, start, 3, "start")
        current = []
        for row in range(blocks.extent[0]):
            arriving = self._arriving(m, row, raw, part, turn)
            current.append(self._block_row(m, row, arriving, read, copy))
        self._select(m, current, copy)
        return m

    def _writer(self, m: Module, stored: Signal):
        """Places the beats that come; the write itself is registered: (enable of each bank, address, payload)."""
        blocks, banks = self.blocks, self._banks
        last_row = (blocks.count[0] - 1) * blocks.step[0] + blocks.extent[0] - 1
        place, row = Signal(range(self._beats), name="write_place"), Signal(range(blocks.map[0]), name="write_row")
        bank, slot = Signal(range(banks), name="write_bank"), Signal(range(self._RING), name="write_slot")
        accept, row_ends, used = Signal(), Signal(), Signal()
        ahead = Signal(range(2 * banks))
        m.d.comb += [
            accept.eq(self.x.valid & self.x.ready),
            row_ends.eq(accept & (place == self._beats - 1)),
            used.eq(row <= last_row),
            # The last block row counts as one row a bank, so that the next word begins at a whole step again.
            stored.eq(Mux(row_ends & used, Mux(row == last_row, 1 + banks - blocks.extent[0], 1), 0)),
            ahead.eq(bank + stored),
        ]
        m.d.sync += bank.eq(ahead)
        with m.If(ahead >= banks):
            m.d.sync += [bank.eq(ahead - banks), slot.eq(slot + 1)]
        with m.If(accept):
            m.d.sync += place.eq(_after(place, self._beats))
        with m.If(row_ends):
            m.d.sync += row.eq(_after(row, blocks.map[0]))

        payload = Signal(self.x.payload.shape(), name="write_payload", reset_less=True)
        address = Signal(len(place) + len(slot), name="write_address", reset_less=True)
        m.d.sync += [payload.eq(self.x.payload), address.eq(Cat(place, slot))]
        enables = [Signal(name=f"write_{index}") for index in range(banks)]
        for index, enable in enumerate(enables):
            m.d.sync += enable.eq(accept & used & (bank == index))
        return enables, address, payload

    def _sequence(self, m: Module, enough: Value, read: Signal, start: Signal, turn: Signal, released: Signal):
        """Reads the coming block; starts it once it is there, the one before is through, and its result has room.

        Returns what is read: place in the row, part of the beat there, rotation, and row of the ring.
        """
        blocks = self.blocks
        rows, columns = blocks.count
        place, part = Signal(range(self._beats)), Signal(range(self._parts))
        phase, slot = Signal(range(self._phases)), Signal(range(self._RING))
        row, column = Signal(range(rows)), Signal(range(columns))
        missing = Signal(range(max(self._reads) + 1), init=self._reads[0])
        step = Signal(range(self.pace))
        row_ends, word_ends = Signal(), Signal()
        m.d.comb += [
            read.eq((missing != 0) & enough),
            start.eq(((missing == 0) | (read & (missing == 1))) & (step == 0) & self.room),
            row_ends.eq(start & (column == columns - 1)),
            word_ends.eq(row_ends & (row == rows - 1)),
            turn.eq(row_ends & ~word_ends),
            released.eq(Mux(row_ends, Mux(word_ends, self._banks, blocks.step[0]), 0)),
        ]
        with m.If(read):
            m.d.sync += [missing.eq(missing - 1), part.eq(_after(part, self._parts))]
            with m.If(part == self._parts - 1):
                m.d.sync += place.eq(place + 1)
        with m.If(start):
            m.d.sync += [missing.eq(self._reads[1]), column.eq(column + 1)]
        with m.If(row_ends):
            m.d.sync += [missing.eq(self._reads[0]), column.eq(0), part.eq(0), place.eq(0), row.eq(_after(row, rows))]
        with m.If(turn):
            m.d.sync += phase.eq(_after(phase, self._phases))
        with m.If(word_ends | (turn & (phase == self._phases - 1))):
            m.d.sync += slot.eq(slot + 1)

        with m.If(start | (step != 0)):
            m.d.sync += step.eq(_after(step, self.pace))
        later, positions = step != 0, blocks.positions
        m.d.comb += self.reserve.eq(start | (later & (step < self.reserved)))
        last = start if positions == 1 else step == positions - 1
        # To the copy of the block three cycles, to the register behind the multiplexer two more.
        for name, strobe in (("valid", start | (later & (step < positions))), ("first", start), ("last", last)):
            m.d.comb += getattr(self, name).eq(delayed(m, strobe, 5, name))
        return place, part, phase, slot

    def _bank(self, m: Module, platform, bank: int, write, address: Value) -> data.View:
        """A memory and the register behind it."""
        enables, write_address, payload = write
        memory = Memory(
            shape=self.x.payload.shape(),
            depth=1 << len(address),
            init=[],
            # Rows that are read are not written at the time.
            attrs={"no_rw_check": 1, "ram_style": ram_style(1 << len(address), platform)},
        )
        m.submodules[f"bank_{bank}"] = memory
        writer, reader = memory.write_port(), memory.read_port()
        raw = Signal(self.x.payload.shape(), name=f"raw_{bank}", reset_less=True)
        m.d.comb += [
            writer.addr.eq(write_address),
            writer.data.eq(payload),
            writer.en.eq(enables[bank]),
            reader.addr.eq(address),
            reader.en.eq(1),
        ]
        m.d.sync += raw.eq(reader.data)
        return raw

    def _arriving(self, m: Module, row: int, raw: list[data.View], part: Value, turn: Value) -> list[Value]:
        """What a read brings for one row of a block."""
        # Each row has a counter of its own: one for all would have too many readers.
        phase = Signal(range(self._phases), name=f"phase_{row}")
        with m.If(turn):
            m.d.sync += phase.eq(_after(phase, self._phases))
        sources = [raw[(row + turned * self.blocks.step[0]) % self._banks] for turned in range(self._phases)]
        values = []
        for lane in range(self._columns * self.channels):
            parts = [
                chosen([source[lane + index * self._columns * self.channels] for source in sources], phase)
                for index in range(self._parts)
            ]
            value = Signal(self.shape, name=f"arriving_{row}_{lane}")
            m.d.comb += value.eq(chosen(parts, part))
            values.append(value)
        return values

    def _block_row(self, m: Module, row: int, arriving: list[Value], read: Value, copy: Value) -> list[Value]:
        """One row of the current block, column by column; the coming block is shifted in behind it."""
        coming = arriving
        current: list[Value] = []
        for index in reversed(range(self._reads[0])):
            before = coming
            coming = [
                Signal(self.tap_shape, name=f"coming_{row}_{index}_{lane}", reset_less=True)
                for lane in range(len(arriving))
            ]
            held = [
                Signal(self.tap_shape, name=f"current_{row}_{index}_{lane}", reset_less=True)
                for lane in range(len(arriving))
            ]
            with m.If(read):
                m.d.sync += [register.eq(value) for register, value in zip(coming, before, strict=True)]
            with m.If(copy):
                m.d.sync += [register.eq(value) for register, value in zip(held, coming, strict=True)]
            current = held + current
        return current

    def _select(self, m: Module, current: list[list[Value]], copy: Value) -> None:
        """The taps of each position in turn."""
        (rows, columns), (down, right), pool = self.blocks.kernel, self.blocks.stride, self.blocks.pool
        for row in range(rows):
            # As above: a counter for each row. What it chooses before the first block does not count.
            position = Signal(range(self.blocks.positions), name=f"position_{row}", reset_less=True)
            m.d.sync += position.eq(Mux(copy, 0, position + 1))
            for column in range(columns):
                for channel in range(self.channels):
                    choices = [
                        current[row + down * y][(column + right * x) * self.channels + channel]
                        for y in range(pool[0])
                        for x in range(pool[1])
                    ]
                    tap = Signal(self.tap_shape, name=f"tap_{row}_{column}_{channel}", reset_less=True)
                    m.d.sync += tap.eq(chosen(choices, position))
                    m.d.comb += self.taps[(channel * rows + row) * columns + column].eq(tap)


def _after(counter: Signal, size: int) -> Value:
    """The value after a counter's that goes round below `size`."""
    return Mux(counter == size - 1, 0, counter + 1)


def chosen(values: list[Value], index: Value) -> Value:
    """A multiplexer; none where there is one value."""
    return Array(values)[index] if len(values) > 1 else values[0]
