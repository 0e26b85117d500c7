"""What feeds the lanes of a WindowConv and starts them."""

from __future__ import annotations

from functools import reduce
from operator import and_

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from rtl_templates.map_lists import PixelFlags
from rtl_templates.window_lane import WindowShape
from rtl_templates.window_parts import ROOM_DELAY, Part, WindowParts


class WindowWriter(wiring.Component):
    """The write side of a WindowConv: goes through the padded map and passes its lists on, row by row.

    Arguments:
        common: what all lanes have in common.

    Members:
        x: stream of whole lists.
        released: strobe: a window has been read.
        arrived: strobe: the list of a window that comes last; the window may start.
        clear, write_row: see WindowShape.control.
        write, write_address: of each chain.

    Latency: 1 cycle. Initiation interval: a cycle a row of a list, of the padding as well.
    """

    def __init__(self, common: WindowShape):
        self._common = common
        chains, members = common.parts.chains, common.control.members
        super().__init__(
            {
                "x": In(stream.Signature(data.ArrayLayout(common.entry, common.parts.entries))),
                "released": In(1),
                "arrived": Out(1),
                "clear": members["clear"],
                "write_row": members["write_row"],
                "write": Out(unsigned(chains)),
                "write_address": Out(data.ArrayLayout(members["write_address"].shape, chains)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        common, parts = self._common, self._common.parts
        windows = parts.windows
        # While the reset lasts.
        uncleared = Signal(init=1)
        m.d.sync += uncleared.eq(0)
        m.d.comb += self.clear.eq(uncleared)
        accept, free, phase = Signal(), Signal(init=1), Signal(common.phase_bits)
        kept_rows = [range(part.first_row, part.first_row + part.rows) for part in parts.parts]
        rows, _ = windows.padded
        by_row = np.stack(
            [windows.inside(0), windows.needed_by(0)[:, -1], *([row in kept for row in range(rows)] for kept in kept_rows)],
            axis=1,
        )  # fmt: skip
        by_column = np.stack([windows.inside(1), windows.needed_by(1)[:, -1]], axis=1)
        m.submodules.pixels = pixels = PixelFlags(by_row, by_column)
        m.d.comb += pixels.advance.eq(accept)
        inside = pixels.row[0] & pixels.column[0]

        room: list[Value] = []
        for number, part in enumerate(parts.parts):
            m.submodules[f"released_{number}"] = oldest = WindowBases(parts, part, common.slot_bits + 2)
            slot = Signal(common.slot_bits + 2, name=f"slot_{number}")
            kept = pixels.row[2 + number]
            m.d.comb += oldest.advance.eq(self.released)
            written = Signal(common.slot_bits, name=f"written_{number}")
            with m.If(accept & kept):
                m.d.sync += slot.eq(slot + 1)
            with m.If(free):
                m.d.sync += [self.write[number].eq(accept & kept), written.eq(slot)]
            m.d.comb += self.write_address[number].eq(Cat(phase, written))
            # Lists of windows that are under way or wait are kept. Before a window's first list has come, fewer than none.
            held = (slot - oldest.base)[: common.slot_bits + 2].as_signed()
            has_room = Signal(name=f"room_{number}", init=1)
            m.d.sync += has_room.eq(held < common.ring - ROOM_DELAY)
            room.append(~kept | has_room)
        can_write = free & reduce(and_, room)
        m.d.comb += [
            self.x.ready.eq(can_write & inside),
            accept.eq(can_write & (self.x.valid | ~inside)),
            self.arrived.eq(accept & pixels.row[1] & pixels.column[1]),
        ]

        list_rows = parts.lists.list_rows
        rows_to_come = Signal(list_rows * common.row_bits, reset_less=True)
        with m.If(free):
            m.d.sync += [
                rows_to_come.eq(Mux(inside, self.x.payload.as_value(), 0)),
                phase.eq(0),
                free.eq(~accept | (list_rows == 1)),
            ]
        with m.Else():
            m.d.sync += [
                rows_to_come.eq(rows_to_come >> common.row_bits),
                phase.eq(phase + 1),
                free.eq(phase == list_rows - 2),
            ]
        m.d.comb += self.write_row.eq(rows_to_come)
        return m


class WindowControl(wiring.Component):
    """Starts windows.

    Arguments:
        common: what all lanes have in common.

    Members:
        arrived: strobe: one window more may start.
        settled: all lanes have been told of the reset, and nothing from before it is on its way; nothing starts before.
        room, reserve: of a ResultFifo whose burst is a window's result and `LATE`.
        start, turn: see WindowShape.control.
        base: of each chain.

    Latency: 2 cycles from `arrived` to `start`. Initiation interval: `WindowParts.interval`.
    """

    # Reservations that `room` may not know of: it and they pass through registers, since they depend on each other.
    LATE = 3

    def __init__(self, common: WindowShape):
        self._common = common
        members = common.control.members
        super().__init__(
            {
                "arrived": In(1),
                "settled": In(1),
                "room": In(1),
                "reserve": Out(1),
                "start": Out(1),
                "turn": members["turn"],
                "base": Out(data.ArrayLayout(members["base"].shape, common.parts.chains)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        common, parts = self._common, self._common.parts
        # Windows that wait, less one; no more of them than lists are kept.
        waiting = Signal(range(-1, common.ring), init=-1)
        room, reserve = Signal(), Signal()
        pace, live = Signal(range(parts.interval)), Signal()
        lane = Signal(range(parts.lanes))
        begin, run = Signal(), Signal()
        m.d.comb += [
            begin.eq((pace == 0) & self.settled & (~live | (~waiting[-1] & room))),
            run.eq(begin | (pace != 0)),
            # All places are reserved before the next window asks for room.
            reserve.eq(run & live & (pace < parts.kernels)),
        ]
        m.d.sync += [
            room.eq(self.room),
            self.reserve.eq(reserve),
            waiting.eq(waiting + self.arrived - (begin & live)),
            self.start.eq(begin),
        ]
        with m.If(run):
            m.d.sync += pace.eq(pace + 1)
            with m.If(pace == parts.interval - 1):
                m.d.sync += pace.eq(0)
        with m.If(begin):
            m.d.sync += [self.turn.eq(lane), lane.eq(lane + 1)]
            with m.If(lane == parts.lanes - 1):
                m.d.sync += lane.eq(0)
        # Every lane has been told to drain once.
        with m.If(run & (pace == parts.interval - 1) & (Mux(begin, lane, self.turn) == parts.lanes - 1)):
            m.d.sync += live.eq(1)
        for number, part in enumerate(parts.parts):
            m.submodules[f"bases_{number}"] = bases = WindowBases(parts, part, common.slot_bits)
            m.d.comb += bases.advance.eq(begin & live)
            with m.If(begin):
                m.d.sync += self.base[number].eq(bases.base)
        return m


class WindowBases(wiring.Component):
    """Where in the ring a part of each window begins, one window after the other.

    Arguments:
        parts: of the windows.
        part: of them.
        bits: of a place.

    Members:
        advance: strobe: to the next window.
        base: number of the list with which it begins, modulo 2^bits.

    Latency: 1 cycle. Initiation interval: 1 cycle.
    """

    def __init__(self, parts: WindowParts, part: Part, bits: int):
        self._parts, self._part = parts, part
        super().__init__({"advance": In(1), "base": Out(unsigned(bits))})

    def elaborate(self, platform) -> Module:
        m = Module()
        first, within_row, to_row, to_word = self._parts.bases(self._part)
        rows, columns = self._parts.windows.positions
        size = 1 << len(self.base)
        base = Signal(len(self.base), init=first % size)
        row, column = Signal(range(rows)), Signal(range(columns))
        last_column, last_row = column == columns - 1, row == rows - 1
        jump = Mux(last_column, Mux(last_row, to_word % size, to_row % size), within_row % size)
        m.d.comb += self.base.eq(base)
        with m.If(self.advance):
            m.d.sync += [base.eq(base + jump), column.eq(column + 1)]
            with m.If(last_column):
                m.d.sync += [column.eq(0), row.eq(Mux(last_row, 0, row + 1))]
        return m
