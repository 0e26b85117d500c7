"""A convolution of winner lists on lanes that take its windows in turn: sparse weights meet sparse activations.

Complementary Sparsity (arXiv 2112.13896), figure 8, with time instead of area for the kernel's offsets: a lane goes
through a window, or through a part of it, and adds up each kernel in one accumulator.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_

import numpy as np
from amaranth.hdl import C, Cat, Module, Mux, Shape, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from rtl_templates import streams
from rtl_templates.mac_engine import delayed
from rtl_templates.result_fifo import ResultFifo, ram_style
from rtl_templates.target import Target, target
from rtl_templates.weight_memory import weight_memory
from rtl_templates.window_lane import WindowLane, WindowShape
from rtl_templates.window_parts import LATENCY, ROOM_DELAY, Part, WindowParts
from rtl_templates.windows import Windows


class WindowConv(wiring.Component):
    """Conv2d of lists: chains of WindowLanes, one for each part of a window.

        x -> writer --> lanes --> lanes --> ... --> lanes --.
             control --'                                    + minus previous sums --> ResultFifo -> y
                    '--> lanes --> lanes --> ... --> lanes -'

    The lanes of a chain take windows in turn, each one a cycle or more after the lane before; chains run in step. Every
    lane keeps the latest lists in a ring, and reads from it those of its window, whatever that is: strides, dilation and
    padding (lists of zeros) are matters of addresses. What a lane has added up leaves when its part is through, on
    registers that pass along the chain and belong to one lane at a time. A window starts when its last list has come and
    there is room for its result; then nothing stalls. Control passes along the chains by groups of lanes, a cycle each,
    and results join in the same step, so all lanes' results take the same time to the end.

    Accumulators are never cleared: what left the same lane before is subtracted behind the chains, exact modulo 2^width.
    After a reset all lanes serve a window without a result, which tells what they begin with.

    Arguments:
        shape: of an activation, 8 bits.
        entries: of a list.
        windows: the convolution.
        weights: int (kernel offsets, weight rows, channels, sets), in [-127, 127]; the offsets row by row.
        kernel_ids: int, same shape, below `kernels`.
        kernels: of a set.
        accumulator: shape; wide enough for every result (the packer proves it).
        interval: cycles a position, at least `kernels`.
        chains: that share a window.
        offset: of ProductPair.
        unpaired: lanes, the first ones, with a multiplier for each product instead of one for two.

    Members:
        x: stream of whole lists, pixel by pixel; the payload is an array of `entries` entries.
        y: value stream, `sets` lanes, `kernels` beats a position.

    Latency: `latency` cycles from a window's last list to its first beat, more with padding, whose writing lists wait for
    in a FIFO. Initiation interval: `interval` cycles a position; a word in `cycles`.
    """

    def __init__(
        self,
        *,
        shape: Shape,
        entries: int,
        windows: Windows,
        weights: NDArray[np.integer],
        kernel_ids: NDArray[np.integer],
        kernels: int,
        accumulator: Shape,
        interval: int,
        chains: int = 1,
        offset: int = 10,
        unpaired: int = 0,
    ):
        offsets = windows.kernel[0] * windows.kernel[1]
        if weights.ndim != 4 or weights.shape != kernel_ids.shape or len(weights) != offsets or not weights.size:
            raise ValueError(
                f"weights and kernel IDs must be ({offsets}, weight rows, channels, sets), "
                f"not {weights.shape!r} and {kernel_ids.shape!r}"
            )
        if not 0 <= kernel_ids.min() <= kernel_ids.max() < kernels:
            raise ValueError(f"kernel IDs must be below {kernels}")
        if np.abs(weights.astype(np.int64)).max() > 127:
            raise ValueError("weights must be in [-127, 127]")
        _, weight_rows, channels, sets = weights.shape
        self.weights, self.kernel_ids, self.unpaired = weights, kernel_ids, unpaired
        self.parts = WindowParts(windows, entries, weight_rows, kernels, interval, chains)
        self.common = WindowShape(
            parts=self.parts,
            shape=shape,
            channels=channels,
            ring=self.parts.ring,
            sets=sets,
            accumulator=accumulator,
            offset=offset,
        )
        super().__init__(
            {
                "x": In(stream.Signature(data.ArrayLayout(self.common.entry, entries))),
                "y": Out(streams.values(accumulator, sets)),
            }
        )

    @property
    def cycles(self) -> int:
        """Of a word, in steady state."""
        return self.parts.cycles

    @property
    def latency(self) -> int:
        """Cycles from the last list of a window to its first beat, while nothing waits and nothing is padded."""
        return self.parts.steps + len(self.parts.groups) + LATENCY

    @property
    def settling(self) -> int:
        """Cycles from a reset's end until windows start."""
        return 2 + len(self.parts.groups) + self._settling + self.parts.lanes * self.parts.interval

    @property
    def _settling(self) -> int:
        return WindowLane.LATENCY + self.parts.kernels + len(self.parts.groups)

    def elaborate(self, platform) -> Module:
        m = Module()
        parts, common = self.parts, self.common
        m.submodules.writer = writer = WindowWriter(common)
        m.submodules.starts = starts = WindowControl(common)
        under_way = -(-(self.latency + parts.kernels) // parts.interval)
        burst = parts.kernels + WindowControl.LATE
        m.submodules.results = results = ResultFifo(
            common.sums, under_way * parts.kernels + WindowControl.LATE, burst=burst
        )
        self._connect_input(m, writer)
        wiring.connect(m, results.y, wiring.flipped(self.y))
        m.d.comb += [
            starts.arrived.eq(writer.arrived),
            starts.room.eq(results.room),
            results.reserve.eq(starts.reserve),
        ]
        ends = []
        for number, part in enumerate(parts.parts):
            chain = self._chain(m, platform, number, part)
            m.d.comb += [
                *(getattr(chain.control, name).eq(getattr(writer, name)) for name in ("clear", "write_row")),
                chain.control.write.eq(writer.write[number]),
                chain.control.write_address.eq(writer.write_address[number]),
                *(getattr(chain.control, name).eq(getattr(starts, name)) for name in ("start", "turn")),
                chain.control.base.eq(starts.base[number]),
            ]
            ends.append(chain)
        # What a lane drains when it is told of the reset takes this long to the end.
        since_reset, settled = Signal(range(self._settling)), Signal()
        with m.If(ends[0].cleared):
            m.d.sync += since_reset.eq(since_reset + 1)
            with m.If(since_reset == self._settling - 1):
                m.d.sync += [since_reset.eq(since_reset), settled.eq(1)]
        m.d.comb += starts.settled.eq(settled)
        self._finish(m, platform, ends, settled, writer, results)
        return m

    def _connect_input(self, m: Module, writer: WindowWriter) -> None:
        """Lists wait in a FIFO while padding is written: a producer without rest cannot make up for it."""
        padded = any(self.parts.windows.padding)
        if not padded:
            wiring.connect(m, wiring.flipped(self.x), writer.x)
            return
        payload = self.x.payload
        depth = self.parts.windows.waiting(self.parts.lists.list_rows, self.cycles)
        m.submodules.waiting = waiting = SyncFIFOBuffered(width=len(payload.as_value()), depth=depth)
        m.d.comb += [
            waiting.w_data.eq(payload),
            waiting.w_en.eq(self.x.valid),
            self.x.ready.eq(waiting.w_rdy),
            writer.x.payload.eq(waiting.r_data),
            writer.x.valid.eq(waiting.r_rdy),
            waiting.r_en.eq(writer.x.ready),
        ]

    def _chain(self, m: Module, platform, number: int, part: Part) -> WindowChain:
        lanes = self.parts.lanes
        unpaired = min(max(0, self.unpaired - number * lanes), lanes)
        chain = WindowChain(self.common, part, self.weights, self.kernel_ids, unpaired)
        m.submodules[f"chain_{number}"] = chain
        return chain

    def _finish(
        self,
        m: Module,
        platform,
        ends: Sequence[WindowChain],
        settled: Value,
        writer: WindowWriter,
        results: ResultFifo,
    ) -> None:
        """The sum of what the chains drained, less what it was when the same lanes drained before."""
        parts, common = self.parts, self.common
        beats = parts.lanes * parts.kernels
        place, kernel, live = Signal(range(beats)), Signal(range(parts.kernels)), Signal()
        # A cycle before the sums are at the ends.
        coming = Signal()
        m.d.comb += coming.eq(ends[0].coming & settled)
        with m.If(coming):
            m.d.sync += [place.eq(place + 1), kernel.eq(kernel + 1)]
            with m.If(kernel == parts.kernels - 1):
                m.d.sync += kernel.eq(0)
            with m.If(place == beats - 1):
                m.d.sync += [place.eq(0), live.eq(1)]
        # All lanes have read the window's lists when its first sum comes.
        m.d.sync += writer.released.eq(coming & live & (kernel == 0))

        attributes = {"no_rw_check": 1, "ram_style": ram_style(beats, platform)}
        previous = Memory(shape=common.sums, depth=beats, init=[], attrs=attributes)
        m.submodules.previous = previous
        read, write = previous.read_port(), previous.write_port()
        m.d.comb += [
            read.en.eq(1),
            read.addr.eq(place),
            write.en.eq(delayed(m, coming, 2, "coming")),
            write.addr.eq(delayed(m, place, 2, "place", True)),
            results.write.eq(delayed(m, coming & live, 3, "written")),
        ]
        for index in range(common.sets):
            # Block RAM is slow.
            before = Signal(common.accumulator, name=f"before_{index}", reset_less=True)
            total = Signal(common.accumulator, name=f"total_{index}", reset_less=True)
            difference = Signal(common.accumulator, name=f"difference_{index}", reset_less=True)
            m.d.sync += [
                before.eq(read.data[index]),
                total.eq(sum((chain.drained[index] for chain in ends), start=C(0, common.accumulator))),
                difference.eq(total - before),
            ]
            m.d.comb += [write.data[index].eq(total), results.data[index].eq(difference)]


class WindowChain(wiring.Component):
    """The lanes that serve a part of every window, in turn.

    Arguments:
        common: what all lanes have in common.
        part: of the windows.
        weights, kernel_ids: as of a WindowConv.
        unpaired: lanes, the first ones, with a multiplier for each product.

    Members:
        control: of the first group of lanes, a cycle later.
        cleared: all lanes have been told of the reset.
        drained: an accumulator of each set of one lane.
        coming: there is one in the next cycle.

    Latency: a cycle a group and one more, besides the lanes' own. Initiation interval: 1 cycle.
    """

    def __init__(
        self,
        common: WindowShape,
        part: Part,
        weights: NDArray[np.integer],
        kernel_ids: NDArray[np.integer],
        unpaired: int = 0,
    ):
        self._common, self._part, self._unpaired = common, part, unpaired
        self._weights, self._kernel_ids = weights, kernel_ids
        super().__init__(
            {
                "control": In(common.control),
                "cleared": Out(1),
                "coming": Out(1),
                "drained": Out(common.sums),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        common = self._common
        control, sums = self.control, [C(0, common.accumulator)] * common.sets
        coming = valid = C(0, 1)
        lanes: list[WindowLane] = []
        for numbers in common.parts.groups:
            first = numbers[0]
            control = self._passed_on(m, control, first)
            group = []
            for number in numbers:
                lane = WindowLane(common, self._part, number, paired=number >= self._unpaired)
                m.submodules[f"lane_{number}"] = lane
                m.d.comb += [getattr(lane.control, name).eq(value) for name, value in control.items()]
                group.append(lane)
            # One lane at a time has other sums than zeros.
            joined = []
            for index, before in enumerate(sums):
                register = Signal(common.accumulator, name=f"sums_{first}_{index}", reset_less=True)
                m.d.sync += register.eq(reduce(or_, (lane.drained[index] for lane in group), before))
                joined.append(register)
            coming = reduce(or_, (lane.valid for lane in group), valid)
            valid = Signal(name=f"valid_{first}", reset_less=True)
            m.d.sync += valid.eq(coming)
            sums = joined
            lanes += group
        for number in range(0, len(lanes), 2):
            self._connect_weights(m, number, lanes[number : number + 2], target(platform))
        with m.If(control["clear"]):
            m.d.sync += self.cleared.eq(1)
        m.d.comb += [self.coming.eq(coming), *(self.drained[index].eq(total) for index, total in enumerate(sums))]
        return m

    def _passed_on(self, m: Module, control, number: int) -> dict[str, Value]:
        registers = {}
        for name, member in self._common.control.members.items():
            register = Signal(member.shape, name=f"{name}_{number}", reset_less=True)
            m.d.sync += register.eq(control[name] if isinstance(control, dict) else getattr(control, name))
            registers[name] = register
        return registers

    def _connect_weights(self, m: Module, number: int, lanes: Sequence[WindowLane], family: Target) -> None:
        """Two lanes share a memory, each with a port."""
        common, part = self._common, self._part
        rows = (1 << common.offset_bits, 1 << common.weight_row_bits, 1 << common.entry["index"].width, common.sets)
        weights, kernel_ids = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        for table, source in ((weights, self._weights), (kernel_ids, self._kernel_ids)):
            own = source[part.offset :][: part.offsets]
            table[: len(own), : common.parts.weight_rows, : common.channels] = own
        memory = weight_memory(
            weights.reshape(-1, common.sets), kernel_ids.reshape(-1, common.sets), common.kernel_bits
        )
        if memory.depth > family.table_depth:
            # Yosys would make the last of an odd number of lanes from LUTs: hundreds of them.
            memory.attrs["ram_style"] = "block"
        m.submodules[f"weights_{number}"] = memory
        for lane in lanes:
            port = memory.read_port()
            m.d.comb += [port.en.eq(1), port.addr.eq(lane.weight_address), lane.weights.eq(port.data)]


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
        m.d.comb += [
            self.x.ready.eq(free & reduce(lambda a, b: a & b, room) & inside),
            accept.eq(free & reduce(lambda a, b: a & b, room) & (self.x.valid | ~inside)),
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


class PixelFlags(wiring.Component):
    """What holds for the rows and the columns of a map, pixel by pixel.

    Looked up while the pixel before is waited for; reset leads to the first pixel with the second looked up.

    Arguments:
        by_row, by_column: bool (rows, flags), (columns, flags).

    Members:
        advance: strobe: to the next pixel.
        row, column: flags of the pixel's row and column.

    Latency: 1 cycle. Initiation interval: 1 cycle.
    """

    def __init__(self, by_row: NDArray[np.bool_], by_column: NDArray[np.bool_]):
        self._by_row, self._by_column = by_row, by_column
        super().__init__(
            {"advance": In(1), "row": Out(unsigned(by_row.shape[1])), "column": Out(unsigned(by_column.shape[1]))}
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        height, width = len(self._by_row), len(self._by_column)
        second = divmod(1 % (height * width), width)
        # At least a bit: a selector of none selects nothing.
        y, x = Signal(range(max(2, height)), init=second[0]), Signal(range(max(2, width)), init=second[1])
        with m.If(self.advance):
            m.d.sync += x.eq(x + 1)
            with m.If(x == width - 1):
                m.d.sync += [x.eq(0), y.eq(Mux(y == height - 1, 0, y + 1))]
        for found, table, selector in ((self.row, self._by_row, y), (self.column, self._by_column, x)):
            flags = Signal(table.shape[1], name=f"{found.name}_flags", init=_number(table[0]))
            with m.If(self.advance):
                m.d.sync += flags.eq(Cat(C(_number(bits), len(table)).bit_select(selector, 1) for bits in table.T))
            m.d.comb += found.eq(flags)
        return m


def _number(bits: NDArray[np.bool_]) -> int:
    """The first bit is the lowest."""
    return sum(int(bit) << place for place, bit in enumerate(bits))
