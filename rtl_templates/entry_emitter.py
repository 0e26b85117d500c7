"""From the marks of a position to a list of (index, value)."""

from __future__ import annotations

from amaranth import Array, Cat, Const, Module, Mux, Shape, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl_templates import streams, timing
from rtl_templates.layouts import channel_count, channel_places, checked
from rtl_templates.position_store import PositionStore
from rtl_templates.streams import Layout
from rtl_templates.trees import any_of, lowest_one

# Of the FIFO: what a row of LUT RAM has.
_PLACES = 16
# Entries that come after the cycle in which room was seen: those of that cycle and of the seven that follow.
_ON_THE_WAY = 8


def marked(channels: int) -> data.StructLayout:
    """The marks of a position: which of its values come first, and which come after them."""
    return data.StructLayout({"first": channels, "then": channels})


class EntryEmitter(wiring.Component):
    """Stores the beats of positions, and emits a fixed number of entries of each.

    Those marked `first`, then those marked `then`, each by increasing index. Channels are taken by groups. The lowest
    group that has marks left is fetched; then its marks leave one a cycle. So only the marks of one group, and one bit
    for each group, ever change.

        marks --> lowest group with a mark --|group register|--> its lowest mark --|index|--> place --> store --> FIFO --> y

    Whether to move on comes from a register, and the FIFO's room reaches that from another: the FIFO is drawn to the
    consumer, and from there it is a long way to the registers of a whole position.

    Arguments:
        layout: of the beats.
        shape: of a value.
        size: entries of a position; those beyond the marks are (0, 0), marks beyond those are ignored.
        ahead: positions of which beats may have been stored when marks are taken, those of the marks left out.

    Members:
        write, values: strobe and beat to store.
        x: stream of marks.
        y: list stream.

    Latency: 7 cycles to the first entry. Initiation interval: `size` cycles a position.
    """

    LATENCY = 7

    def __init__(self, layout: Layout, shape: Shape, size: int, ahead: int):
        if size < 1:
            raise ValueError(f"size must be a positive number of entries, not {size!r}")
        self._layout, self._shape, self._size = checked(layout), shape, size
        self._channels = channel_count(self._layout)
        self._positions = timing.stored_positions(ahead, "entries")
        super().__init__(
            {
                "write": In(1),
                "values": In(data.ArrayLayout(shape, len(self._layout[0]))),
                "x": In(stream.Signature(marked(self._channels))),
                "y": Out(streams.entries(shape, self._channels)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.fifo = fifo = SyncFIFO(width=len(self.y.payload.as_value()), depth=_PLACES)
        m.d.comb += [
            self.y.valid.eq(fifo.r_rdy),
            self.y.payload.as_value().eq(fifo.r_data),
            fifo.r_en.eq(self.y.ready),
        ]
        room = Signal(init=1)
        m.d.sync += room.eq(fifo.w_level <= _PLACES - _ON_THE_WAY)
        index, is_marked, valid = self._indices(m, room)
        self._look_up(m, index, is_marked, valid, fifo)
        return m

    def _indices(self, m: Module, room: Value) -> tuple[Value, Value, Value]:
        """The index of each entry, whether a mark stands for it, and whether there is one; from registers."""
        # A power of two, so that an index is a group's number beside a lane's.
        lane_bits = (self._channels - 1).bit_length() // 2
        lanes = 1 << lane_bits
        groups = -(-self._channels // lanes)

        # Groups with marks left, those of `first` below those of `then`; the lowest of all is kept apart, ready to use.
        position = Signal(self.x.payload.shape())
        waiting, picked = Signal(2 * groups), Signal(2 * groups)
        group_marks, group_number, group_valid = Signal(lanes), Signal(range(groups)), Signal()
        move, is_last = self._count(m, room)
        ended, fetch, lowest, left = Signal(init=1), Signal(), Signal(lanes), Signal(lanes)
        # No mark follows the one that leaves next: a register, since a fetch has a long way. Of each group as it comes.
        single, single_of = Signal(), Signal(2 * groups)
        m.d.comb += [
            lowest.eq(lowest_one(group_marks)),
            left.eq(group_marks & ~lowest),
            fetch.eq(move & (ended | single)),
        ]
        with m.If(move):
            m.d.sync += [ended.eq(is_last), group_marks.eq(left), single.eq(_at_most_one(left))]
        of_either, next_picked = Signal(groups), Signal(2 * groups)
        m.d.comb += [of_either.eq(picked[:groups] | picked[groups:]), next_picked.eq(lowest_one(waiting))]
        with m.If(fetch):
            marks = self._parts(position.first, lanes) + self._parts(position.then, lanes)
            m.d.sync += [
                waiting.eq(waiting & ~next_picked),
                picked.eq(next_picked),
                group_marks.eq(any_of([part & picked[i].replicate(len(part)) for i, part in enumerate(marks)])),
                single.eq((single_of & picked).any()),
                group_number.eq(_number_of(of_either)),
            ]
        m.d.sync += group_valid.eq(move)
        with m.If(self.x.ready):
            marks = self._parts(self.x.payload.first, lanes) + self._parts(self.x.payload.then, lanes)
            marked_groups = Cat(part.any() for part in marks)
            first_picked = lowest_one(marked_groups)
            m.d.sync += [
                position.eq(self.x.payload),
                waiting.eq(marked_groups & ~first_picked),
                picked.eq(first_picked),
                single_of.eq(Cat(_at_most_one(part) for part in marks)),
            ]

        index, is_marked, valid = Signal(range(self._channels), reset_less=True), Signal(reset_less=True), Signal()
        m.d.sync += [
            index.eq(Cat(_number_of(lowest), group_number)),
            is_marked.eq(group_marks.any()),
            valid.eq(group_valid),
        ]
        return index, is_marked, valid

    def _count(self, m: Module, room: Value) -> tuple[Signal, Signal]:
        """Whether an entry is on its way, and whether it is its position's last.

        Registers, of what holds in the next cycle: what they enable is far away and takes the whole of it.
        """
        moved, move, is_last = Signal(range(self._size)), Signal(), Signal(init=self._size == 1)
        ready = Signal(init=1)
        # A position is there in the next cycle: the one that is not through yet, or another.
        there, will_be_last = Signal(), Signal()
        m.d.comb += [
            self.x.ready.eq(ready),
            there.eq(~ready | self.x.valid),
            will_be_last.eq(Mux(move, (moved + 2 == self._size) | (self._size == 1), is_last)),
        ]
        m.d.sync += [
            is_last.eq(will_be_last),
            move.eq(there & room),
            ready.eq(~there | (room & will_be_last)),
        ]
        with m.If(move):
            m.d.sync += moved.eq(Mux(is_last, 0, moved + 1))
        return move, is_last

    def _look_up(self, m: Module, index: Value, is_marked: Value, valid: Value, fifo: SyncFIFO) -> None:
        """Where the value is, then its row, then the value itself; a cycle each."""
        beats, lanes = len(self._layout), len(self._layout[0])
        beat_bits, lane_bits = (beats - 1).bit_length(), (lanes - 1).bit_length()
        m.submodules.store = store = PositionStore(self._layout, self._shape, self._positions)
        place = data.StructLayout({"lane": lane_bits, "beat": beat_bits})
        places = [{"lane": lane, "beat": beat} for beat, lane in channel_places(self._layout)]
        # A block of memory would be far too large for them.
        table = Memory(shape=place, depth=len(places), init=places, attrs={"rom_style": "logic"})
        m.submodules.places = table
        finder = table.read_port()

        # Of the entry at each stage: its index, whether a mark stands for it, and whether there is one.
        ages = range(3)
        indices = [index] + [Signal.like(index, name=f"index_{age}", reset_less=True) for age in ages]
        marks = [is_marked] + [Signal(name=f"is_marked_{age}", reset_less=True) for age in ages]
        valids = [valid] + [Signal(name=f"valid_{age}") for age in ages]
        for stages in (indices, marks, valids):
            m.d.sync += [stages[age + 1].eq(stages[age]) for age in ages]
        read, position = Signal(range(self._size)), Signal.like(store.position)
        with m.If(valids[1]):
            m.d.sync += read.eq(read + 1)
            with m.If(read == self._size - 1):
                m.d.sync += [read.eq(0), position.eq(position + 1)]

        lane, value = Signal(lane_bits, reset_less=True), Signal(self._shape, reset_less=True)
        m.d.comb += [
            store.write.eq(self.write),
            store.values.eq(self.values),
            finder.addr.eq(index),
            finder.en.eq(1),
            store.beat.eq(finder.data.beat),
            store.position.eq(position),
            store.enable.eq(1),
        ]
        m.d.sync += [
            lane.eq(finder.data.lane),
            value.eq(Array(store.row[i] for i in range(lanes))[lane]),
        ]
        entry = Signal(self.y.payload.shape())
        m.d.comb += [
            entry.index.eq(indices[3]),
            entry.value.eq(Mux(marks[3], value, 0)),
            fifo.w_en.eq(valids[3]),
            fifo.w_data.eq(entry),
        ]

    def _parts(self, marks: Value, lanes: int) -> list[Value]:
        """The marks of each group."""
        return [marks[start : start + lanes] for start in range(0, self._channels, lanes)]


def _at_most_one(marks: Value) -> Value:
    """Whether no two of them are set."""
    return ~any_of([marks[i] & marks[:i].any() for i in range(1, len(marks))] or [Const(0, 1)])


def _number_of(one_hot: Value) -> Value:
    """The number of the bit that is set, 0 if none is."""
    bits = (len(one_hot) - 1).bit_length()
    return Cat(Cat(one_hot[i] for i in range(len(one_hot)) if i >> bit & 1).any() for bit in range(bits))
