"""From the marked values of a position to a list of (index, value)."""

from __future__ import annotations

from typing import NamedTuple

from amaranth import Cat, Const, Module, Mux, Shape, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from rtl_templates import streams
from rtl_templates.target import target
from rtl_templates.trees import any_of, lowest_one

# Of the FIFO: what a row of LUT RAM has.
_PLACES = 16
# Entries that come after the cycle in which room was seen: those of that cycle and of the three that follow.
_ON_THE_WAY = 4


def marked(shape: Shape, channels: int) -> data.StructLayout:
    """A position with marks: its values, which of them come first, and which come after them."""
    return data.StructLayout({"values": data.ArrayLayout(shape, channels), "first": channels, "then": channels})


class _Control(NamedTuple):
    """An entry is on its way; it is its position's last; another position can come."""

    move: Signal
    is_last: Signal
    ready: Signal


class EntryEmitter(wiring.Component):
    """Emits a fixed number of entries: those marked `first`, then those marked `then`, each by increasing index.

    Channels are taken by groups. The lowest group that has marks left is fetched, with its values; then its marks
    leave one a cycle. So only the marks of one group, and one bit for each group, ever change.

        position --> lowest group with a mark --|group register|--> its lowest mark --|entry register|--> FIFO --> y

    Whether to move on comes from a register, which saw the FIFO's room: a stall of the consumer would have a long way
    to the registers of a whole position.

    Arguments:
        shape: of a value.
        channels: values of a position.
        size: entries of a position; those beyond the marks are (0, 0), marks beyond those are ignored.

    Members:
        x: stream of marked positions.
        y: list stream.

    Latency: 4 cycles to the first entry. Initiation interval: `size` cycles a position.
    """

    LATENCY = 4

    def __init__(self, shape: Shape, channels: int, size: int):
        if size < 1:
            raise ValueError(f"size must be a positive number of entries, not {size!r}")
        self._shape, self._channels, self._size = shape, channels, size
        super().__init__(
            {"x": In(stream.Signature(marked(shape, channels))), "y": Out(streams.entries(shape, channels))}
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        entry, entry_valid = Signal(self.y.payload.shape(), reset_less=True), Signal()
        m.submodules.fifo = fifo = SyncFIFO(width=len(entry.as_value()), depth=_PLACES)
        room = fifo.w_level <= _PLACES - _ON_THE_WAY
        m.d.comb += [
            self.y.valid.eq(fifo.r_rdy),
            self.y.payload.as_value().eq(fifo.r_data),
            fifo.r_en.eq(self.y.ready),
        ]

        # A power of two, so that an index is a group's number beside a lane's.
        lane_bits = (self._channels - 1).bit_length() // 2
        lanes = 1 << lane_bits
        groups = -(-self._channels // lanes)

        # Groups with marks left, those of `first` below those of `then`; the lowest of all is kept apart, ready to use.
        position = Signal(self.x.payload.shape())
        waiting, picked = Signal(2 * groups), Signal(2 * groups)
        group_marks, group_values = Signal(lanes), Signal(data.ArrayLayout(self._shape, lanes))
        group_number, group_valid = Signal(range(groups)), Signal()
        # Moves of a position: each brings one entry to the head of the group register. The parts of a position lie far
        # apart on a chip, so each share of the channels counts for itself; the first counts for all else.
        shares = target(platform).control_groups(self._channels)
        controls = [self._count(m, number, room) for number in range(len(shares))]
        for channels, control in zip(shares, controls, strict=True):
            of_share = slice(channels.start, channels.stop)
            with m.If(control.ready):
                m.d.sync += [
                    position.first[of_share].eq(self.x.payload.first[of_share]),
                    position.then[of_share].eq(self.x.payload.then[of_share]),
                    *(position.values[c].eq(self.x.payload.values[c]) for c in channels),
                ]
        move, is_last, ended = controls[0].move, controls[0].is_last, Signal(init=1)
        fetch, lowest, left = Signal(), Signal(lanes), Signal(lanes)
        # No mark follows the one that leaves next: a register, since a fetch has a long way. Of each group as it comes.
        single, single_of = Signal(), Signal(2 * groups)
        m.d.comb += [
            lowest.eq(lowest_one(group_marks)),
            left.eq(group_marks & ~lowest),
            fetch.eq(move & (ended | single)),
            self.x.ready.eq(controls[0].ready),
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
                group_marks.eq(any_of([_gated(part, picked[i]) for i, part in enumerate(marks)])),
                single.eq((single_of & picked).any()),
                group_number.eq(_number_of(of_either)),
            ]
            for lane in range(lanes):
                channels = range(lane, self._channels, lanes)
                gated = [_gated(position.values[c].as_unsigned(), of_either[i]) for i, c in enumerate(channels)]
                m.d.sync += group_values[lane].eq(any_of(gated))
        m.d.sync += group_valid.eq(move)
        with m.If(self.x.ready):
            marks = self._parts(self.x.payload.first, lanes) + self._parts(self.x.payload.then, lanes)
            marked_groups = Cat(part.any() for part in marks)
            first_picked = lowest_one(marked_groups)
            m.d.sync += [
                waiting.eq(marked_groups & ~first_picked),
                picked.eq(first_picked),
                single_of.eq(Cat(_at_most_one(part) for part in marks)),
            ]

        m.d.sync += [
            entry_valid.eq(group_valid),
            entry.index.eq(Cat(_number_of(lowest), group_number)),
            entry.value.eq(any_of([_gated(group_values[lane].as_unsigned(), lowest[lane]) for lane in range(lanes)])),
        ]
        m.d.comb += [fifo.w_en.eq(entry_valid), fifo.w_data.eq(entry)]
        return m

    def _count(self, m: Module, number: int, room: Value) -> _Control:
        """Where in its entries a position is. Copies stay apart in synthesis: each depends on its own state."""
        moved = Signal(range(self._size), name=f"moved_{number}")
        # Registers, of what holds in the next cycle: what they enable is far away and takes the whole of it.
        move, is_last = Signal(name=f"move_{number}"), Signal(name=f"is_last_{number}", init=self._size == 1)
        ready = Signal(name=f"ready_{number}", init=1)
        # A position is there in the next cycle: the one that is not through yet, or another.
        there, will_be_last = Signal(name=f"there_{number}"), Signal(name=f"will_be_last_{number}")
        m.d.comb += [
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
        return _Control(move, is_last, ready)

    def _parts(self, marks: Value, lanes: int) -> list[Value]:
        """The marks of each group."""
        return [marks[start : start + lanes] for start in range(0, self._channels, lanes)]


def _gated(value: Value, gate: Value) -> Value:
    return value & gate.replicate(len(value))


def _at_most_one(marks: Value) -> Value:
    """Whether no two of them are set."""
    return ~any_of([marks[i] & marks[:i].any() for i in range(1, len(marks))] or [Const(0, 1)])


def _number_of(one_hot: Value) -> Value:
    """The number of the bit that is set, 0 if none is."""
    bits = (len(one_hot) - 1).bit_length()
    return Cat(Cat(one_hot[i] for i in range(len(one_hot)) if i >> bit & 1).any() for bit in range(bits))
