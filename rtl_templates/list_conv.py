"""A convolution of winner lists on a chain of lanes: sparse weights meet sparse activations.

Complementary Sparsity (arXiv 2112.13896), figure 8, unrolled over the kernel: the window's pixels are served at once, and
no pixel is buffered that no later window needs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from amaranth.hdl import C, Cat, Module, Mux, Shape, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from rtl_templates import streams
from rtl_templates.conv_lane import ConvLane, LaneShape
from rtl_templates.mac_engine import delayed
from rtl_templates.map_lists import PixelFlags, connect_lists
from rtl_templates.result_fifo import ResultFifo
from rtl_templates.sub_lists import SubLists
from rtl_templates.target import ECP5, Target, target
from rtl_templates.weight_memory import check_weights, weight_memory
from rtl_templates.windows import Windows

# Of a block RAM: a FIFO that needs one has them all.
_BLOCK_ROWS = 512


class ListConv(wiring.Component):
    """Conv2d of lists: a chain of ConvLanes, one for each kernel offset, or for a few offsets or fractions of them.

        x -> writer --> lane --> lane --> ... --> lane --> minus previous sums --> ResultFifo -> y
             starts --'

    A kernel offset meets exactly one pixel of every window, and does so in raster order: its lane's FIFO takes the pixels
    that are its own, as they pass, and gives one to each output position. A lane may have several parts: it takes what
    passes for one after the other, and serves them one after the other. A part is a kernel offset or, where lists are
    cut, a kernel offset and a sub-list. They are dealt out in order, the sub-lists of an offset before the next offset.
    Pixels of the padding are lists of zeros. A position starts when the last lane has its list and there is room for its
    result; then nothing stalls. All that the lanes do follows from a few signals that pass from lane to lane, a cycle
    each, so each lane does everything one cycle later than the one before, and results grow along the chain in step
    with it.

    Accumulators are never cleared. They have two banks: one drains while the other fills, and what the same bank
    drained before is subtracted behind the chain, exact modulo 2^width. A reset passes along the chain as
    all else does; behind it both banks drain once without a result.

    Arguments:
        shape: of an activation, 8 bits.
        entries: of a list.
        windows: the convolution.
        weights: int (kernel offsets, weight rows, channels, sets), in [-127, 127]; the offsets row by row.
        kernel_ids: int, same shape, below `kernels`.
        kernels: of a set.
        accumulator: shape; wide enough for every result (the packer proves it).
        depth: lists that a lane's FIFO holds for each part, a power of two; None for a full block RAM, and for more
            where they are needed to keep up with a producer that delivers a word's pixels evenly.
        offset: of ProductPair.
        unpaired: lanes, the first of the chain, with a multiplier for each product instead of one for two.
        parts: of a lane.
        split: sub-lists that a list is cut into, see SubLists.

    Members:
        x: stream of whole lists, pixel by pixel; the payload is an array of `entries` entries.
        y: value stream, `sets` lanes, `kernels` beats a position.

    Latency: `latency` cycles from a window's last list to its first beat, more with padding, whose writing lists wait for
    in a FIFO. Initiation interval: `interval` cycles a
    position; a word in `cycles`.
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
        depth: int | None = None,
        offset: int = 10,
        unpaired: int = 0,
        parts: int = 1,
        split: int = 1,
    ):
        lists = SubLists(entries, split)
        for name, value in (("kernels", kernels), ("parts", parts)):
            if value < 1:
                raise ValueError(f"{name} must be positive, not {value!r}")
        check_weights(weights, kernel_ids, windows.kernel[0] * windows.kernel[1], kernels)
        _, weight_rows, channels, sets = weights.shape
        # Of each part: all sub-lists of an offset meet its weights.
        self.weights, self.kernel_ids = (np.repeat(table, split, axis=0) for table in (weights, kernel_ids))
        self.unpaired = unpaired
        self.windows = windows
        self.lanes = -(-len(self.weights) // parts)
        self.interval = max(lists.reads * weight_rows * parts, kernels)
        self._writes = lists.rows * parts
        if depth is None:
            depth = windows.full_speed_depth(self.interval, self.cycles)
            slot_rows = 1 << ((lists.rows - 1).bit_length() + (parts - 1).bit_length())
            if depth * slot_rows > ECP5.distributed_depth:
                depth = max(depth, _BLOCK_ROWS // slot_rows)
        if depth & (depth - 1) or depth < windows.least_depth():
            raise ValueError(f"depth must be a power of two, at least {windows.least_depth()}, not {depth!r}")
        self.lane = LaneShape(
            shape=shape,
            channels=channels,
            lists=lists,
            weight_rows=weight_rows,
            depth=depth,
            parts=parts,
            kernel_rows=windows.kernel[0],
            kernel_columns=windows.kernel[1],
            sets=sets,
            kernels=kernels,
            accumulator=accumulator,
            offset=offset,
        )
        super().__init__(
            {
                "x": In(stream.Signature(data.ArrayLayout(self.lane.entry, entries))),
                "y": Out(streams.values(accumulator, sets)),
            }
        )

    @property
    def cycles(self) -> int:
        """Of a word, in steady state: positions, or writing its lists where that takes longer."""
        positions = self.windows.positions[0] * self.windows.positions[1]
        return max(positions * self.interval, self.windows.pixels * self._writes)

    @property
    def latency(self) -> int:
        """Cycles from the last list of a window to its first beat, while nothing waits and nothing is padded."""
        return self.lane.steps + ConvLane.ADD + self.lanes + 6

    def elaborate(self, platform) -> Module:
        m = Module()
        lane = self.lane
        m.submodules.writer = writer = ListWriter(self.windows, lane)
        m.submodules.results = results = ResultFifo(
            lane.sums, self._positions_under_way * lane.kernels, burst=lane.kernels
        )
        m.submodules.starts = starts = LaneControl(lane, self.interval)
        waiting = self.windows.waiting(self._writes, self.cycles)
        connect_lists(m, wiring.flipped(self.x), writer.x, waiting)
        wiring.connect(m, results.y, wiring.flipped(self.y))
        m.d.comb += [
            starts.arrived.eq(writer.arrived),
            starts.room.eq(results.room),
            results.reserve.eq(starts.reserve),
            writer.released.eq(starts.released),
        ]

        control: dict[str, Value] = {}
        for part in (writer, starts):
            control |= {name: getattr(part, name) for name in part.control}
        # Where an adder takes three operands, every second lane adds the sums of two lanes.
        stride = target(platform).adder_operands - 1
        split = lane.lists.split
        lanes: list[ConvLane] = []
        sums: list[Value] = [C(0, lane.accumulator)] * lane.sets
        for number in range(self.lanes):
            late = (number + 1) % stride != 0 and number + 1 < self.lanes
            parts = range(number * lane.parts, min((number + 1) * lane.parts, len(self.weights)))
            offsets = [divmod(part // split, lane.kernel_columns) for part in parts]
            place = ConvLane(lane, offsets, tap=parts.start % split, late=late, paired=number >= self.unpaired)
            m.submodules[f"lane_{number}"] = place
            m.d.comb += [getattr(place.control, name).eq(value) for name, value in control.items()]
            control = {name: getattr(place.next_control, name) for name in control}
            lanes.append(place)
            added = [] if late else [place, *(other for other in lanes[-2:-1] if other.late)]
            sums = [
                self._chained(m, f"sum_{number}_{index}", sums[index], [other.drained[index] for other in added])
                for index in range(lane.sets)
            ]
        together = self._lanes_a_memory(target(platform))
        for number in range(0, len(lanes), together):
            self._connect_weights(m, number, lanes[number : number + together], target(platform))
        cleared = Signal()
        with m.If(control["clear"]):
            m.d.sync += cleared.eq(1)
        # The chain's end is far from its beginning.
        m.d.comb += starts.cleared.eq(delayed(m, cleared, 2, "cleared"))
        self._finish(m, control, sums, results, cleared)
        return m

    def _chained(self, m: Module, name: str, before: Value, drained: Sequence[Value]) -> Value:
        """The chain's register at a lane: sums over the lanes so far."""
        total = Signal(self.lane.accumulator, name=name, reset_less=True)
        m.d.sync += total.eq(sum(drained, start=before))
        return total

    def _lanes_a_memory(self, family: Target) -> int:
        """Two lanes share a block RAM, each with a port: what narrow blocks with two ports hold best."""
        depth = 1 << self.lane.weight_address_bits
        return 1 if depth <= family.table_depth else 2

    @property
    def _positions_under_way(self) -> int:
        """Positions from start to the last beat, so that no start waits for room."""
        return -(-(self.latency + self.lane.kernels) // self.interval)

    def _connect_weights(self, m: Module, number: int, lanes: Sequence[ConvLane], family: Target) -> None:
        """A memory for these lanes, each of which has a port."""
        lane = self.lane
        extent = (
            len(lanes), 1 << lane.part_bits, 1 << lane.weight_row_bits, 1 << lane.entry["index"].width, lane.sets
        )  # fmt: skip
        weights, kernel_ids = np.zeros(extent, np.int64), np.zeros(extent, np.int64)
        for table, source in ((weights, self.weights), (kernel_ids, self.kernel_ids)):
            for place, of_lane in enumerate(table):
                own = source[(number + place) * lane.parts :][: lane.parts]
                of_lane[: len(own), : lane.weight_rows, : lane.channels] = own
        memory = weight_memory(weights.reshape(-1, lane.sets), kernel_ids.reshape(-1, lane.sets), lane.kernel_bits)
        if memory.depth > family.table_depth:
            # Yosys would make the last of an odd number of lanes from LUTs: hundreds of them.
            memory.attrs["ram_style"] = "block"
        m.submodules[f"weights_{number}"] = memory
        for part, place in enumerate(lanes):
            port = memory.read_port()
            m.d.comb += [
                port.en.eq(1),
                port.addr.eq(Cat(place.weight_address, C(part, len(lanes) - 1))),
                place.weights.eq(port.data),
            ]

    def _finish(
        self, m: Module, control: dict[str, Value], sums: Sequence[Value], results: ResultFifo, cleared: Value
    ) -> None:
        """What the chain drained, less what it drained from the same accumulators before."""
        lane = self.lane
        # Sums leave a lane with its control.
        address = control["drain_address"]
        previous = Memory(shape=lane.sums, depth=2 << lane.kernel_bits, init=[])
        m.submodules.previous = previous
        write, read = previous.write_port(), previous.read_port(domain="comb")
        m.d.comb += [
            read.addr.eq(address),
            write.addr.eq(address),
            write.en.eq(control["drain"]),
            write.data.eq(Cat(sums)),
        ]
        # What lanes drain until then began before the reset.
        m.d.sync += results.write.eq(control["drain_live"] & cleared)
        for index in range(lane.sets):
            difference = Signal(lane.accumulator, name=f"difference_{index}", reset_less=True)
            m.d.sync += difference.eq(sums[index] - read.data[index])
            m.d.comb += results.data[index].eq(difference)


class ListWriter(wiring.Component):
    """The write side of a ListConv: goes through the padded map and passes its lists on, FIFO row by row.

    Arguments:
        windows: the convolution.
        lane: what all lanes have in common.

    Members:
        x: stream of whole lists.
        released: strobe: a position has read its lists.
        arrived: strobe: the list of a position that comes last; the position may start.
        write and the like: see LaneShape.control.

    Latency: 1 cycle. Initiation interval: for each part a cycle a row of a sub-list, of the padding as well.
    """

    control = ("clear", "write", "write_part", "write_last", "write_phase", "write_taps", "write_rows", "write_columns")

    def __init__(self, windows: Windows, lane: LaneShape):
        self._windows, self._lane = windows, lane
        members = lane.control.members
        super().__init__(
            {
                "x": In(stream.Signature(data.ArrayLayout(lane.entry, lane.lists.entries))),
                "released": In(1),
                "arrived": Out(1),
                **{name: members[name] for name in self.control},
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        lane = self._lane
        # While the reset lasts.
        uncleared = Signal(init=1)
        m.d.sync += uncleared.eq(0)
        m.d.comb += self.clear.eq(uncleared)
        accept, free = Signal(), Signal(init=1)
        rows, columns, inside = self._pixel(m, accept)

        # Of all lanes the first holds most lists. A power of two lists is full when the top bit is set.
        held = Signal(lane.slot_bits + 1)
        room = Signal()
        first, last = rows[0] & columns[0], rows[-1] & columns[-1]
        m.d.comb += [
            room.eq(free & ~(held[-1] & first)),
            self.x.ready.eq(room & inside),
            accept.eq(room & (self.x.valid | ~inside)),
            # Its rows are written sooner than a position that starts now reads them.
            self.arrived.eq(accept & last),
        ]
        m.d.sync += held.eq(held + (accept & first) - self.released)

        phases = lane.lists.rows
        rows_to_come = Signal(data.ArrayLayout(unsigned(lane.row_bits), lane.lists.list_rows), reset_less=True)
        last_row, last_but_one = Signal(), Signal()
        last_part, last_but_one_row = (lane.parts - 1, phases - 2) if phases > 1 else (lane.parts - 2, 0)
        m.d.comb += [
            last_row.eq(self.write_phase == phases - 1),
            last_but_one.eq((self.write_part == last_part) & (self.write_phase == last_but_one_row)),
        ]
        with m.If(free):
            m.d.sync += [
                rows_to_come.eq(Mux(inside, self.x.payload.as_value(), 0)),
                self.write_rows.eq(rows),
                self.write_columns.eq(columns),
                self.write.eq(accept),
                self.write_phase.eq(0),
                self.write_part.eq(0),
                free.eq(~accept | (phases * lane.parts == 1)),
            ]
        with m.Else():
            m.d.sync += [
                # After a part its sub-list is at the last tap, and each other one at the tap before its own.
                rows_to_come.eq(rows_to_come.as_value().rotate_right(lane.row_bits)),
                self.write_phase.eq(Mux(last_row, 0, self.write_phase + 1)),
                self.write_part.eq(self.write_part + last_row),
                free.eq(last_but_one),
            ]
        m.d.comb += self.write_last.eq(last_row)
        m.d.comb += [self.write_taps[tap].eq(rows_to_come[tap * phases]) for tap in range(lane.lists.split)]
        return m

    def _pixel(self, m: Module, advance: Value) -> tuple[Value, Value, Value]:
        """Which kernel rows and columns need the pixel that is waited for, and whether it is in the map."""
        windows = self._windows
        flags = [np.column_stack([windows.needed_by(axis), windows.inside(axis)]) for axis in (0, 1)]
        m.submodules.pixels = pixels = PixelFlags(*flags)
        m.d.comb += pixels.advance.eq(advance)
        return pixels.row[:-1], pixels.column[:-1], pixels.row[-1] & pixels.column[-1]


class LaneControl(wiring.Component):
    """The read side of a ListConv: starts positions, and tells the lanes each step and each drain.

    Arguments:
        lane: what all lanes have in common.
        interval: cycles of a position.

    Members:
        arrived: strobe: one position more may start.
        cleared: all lanes have been told of the reset; nothing starts before.
        room, reserve: of a ResultFifo whose burst is a position's result.
        released: strobe: a position has read its lists.
        read_address and the like: see LaneShape.control.

    Latency: 1 cycle from `arrived` to a start, 1 more to its first read_address. Initiation interval: `interval`.
    """

    control = ("read_address", "entry", "weight_row", "add", "add_bank", "drain", "drain_live", "drain_address")

    def __init__(self, lane: LaneShape, interval: int):
        self._lane, self._interval = lane, interval
        members = lane.control.members
        super().__init__(
            {
                "arrived": In(1),
                "cleared": In(1),
                "room": In(1),
                "reserve": Out(1),
                "released": Out(1),
                **{name: members[name] for name in self.control},
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        lane = self._lane
        waiting = Signal(lane.slot_bits + 1)
        # Accumulators hold anything after a reset: two positions without steps tell what each bank begins with.
        unknown_banks = Signal(range(3), init=2)
        pace = Signal(range(self._interval))
        live, begin, run, step, last_step = Signal(), Signal(), Signal(), Signal(), Signal()
        bank = Signal()
        m.d.comb += [
            live.eq(unknown_banks == 0),
            begin.eq((pace == 0) & self.cleared & (~live | ((waiting != 0) & self.room))),
            run.eq(begin | (pace != 0)),
            step.eq(run & live & (pace < lane.steps)),
            last_step.eq(run & (pace == lane.steps - 1)),
            self.released.eq(last_step & live),
            # All places are reserved before the next position asks for room.
            self.reserve.eq(run & live & (pace < lane.kernels)),
        ]
        m.d.sync += waiting.eq(waiting + self.arrived - (begin & live))
        with m.If(run):
            m.d.sync += pace.eq(pace + 1)
            with m.If(pace == self._interval - 1):
                m.d.sync += [pace.eq(0), bank.eq(~bank)]
                with m.If(~live):
                    m.d.sync += unknown_banks.eq(unknown_banks - 1)

        entry, weight_row, slot = Signal(range(lane.lists.reads)), Signal(lane.weight_row_bits), Signal(lane.slot_bits)
        part = Signal(lane.part_bits)
        with m.If(step):
            m.d.sync += weight_row.eq(weight_row + 1)
            with m.If(weight_row == lane.weight_rows - 1):
                m.d.sync += [weight_row.eq(0), entry.eq(entry + 1)]
                with m.If(entry == lane.lists.reads - 1):
                    m.d.sync += [entry.eq(0), part.eq(Mux(part == lane.parts - 1, 0, part + 1))]
        with m.If(self.released):
            m.d.sync += slot.eq(slot + 1)
        phase, place = (entry[1:], entry[0]) if lane.lists.entries > 1 else (C(0, 0), C(0, 0))
        select, add = ConvLane.SELECT, ConvLane.ADD
        m.d.comb += [
            self.read_address.eq(delayed(m, Cat(phase, slot, part), 1, "read_address")),
            self.entry.eq(delayed(m, place, 1 + select, "entry")),
            self.weight_row.eq(delayed(m, Cat(weight_row, part), 2 + select, "weight_row")),
            self.add.eq(delayed(m, step, 1 + add, "add")),
            self.add_bank.eq(delayed(m, bank, 1 + add, "add_bank")),
        ]

        # The drain follows the last sum. It takes no longer than a position, so the next one finds it ended.
        ended, ended_live = delayed(m, last_step, 1 + add, "ended"), delayed(m, self.released, 1 + add, "ended_live")
        kernel, drain_bank = Signal(range(lane.kernels)), Signal()
        with m.If(ended):
            m.d.sync += [self.drain.eq(1), self.drain_live.eq(ended_live), kernel.eq(0), drain_bank.eq(self.add_bank)]
        with m.Elif(kernel == lane.kernels - 1):
            m.d.sync += [self.drain.eq(0), self.drain_live.eq(0)]
        with m.Else():
            m.d.sync += kernel.eq(kernel + 1)
        m.d.comb += self.drain_address.eq(Cat(kernel, drain_bank))
        return m
