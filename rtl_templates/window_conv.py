"""A convolution of winner lists on lanes that take its windows in turn: sparse weights meet sparse activations.

Complementary Sparsity (arXiv 2112.13896), figure 8, with time instead of area for the kernel's offsets: a lane goes
through a window, or through a part of it, and adds up each kernel in one accumulator.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_

import numpy as np
from amaranth.hdl import C, Module, Shape, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from rtl_templates import streams
from rtl_templates.mac_engine import delayed
from rtl_templates.map_lists import connect_lists
from rtl_templates.result_fifo import ResultFifo, ram_style
from rtl_templates.target import Target, target
from rtl_templates.weight_memory import check_weights, weight_memory
from rtl_templates.window_control import WindowControl, WindowWriter
from rtl_templates.window_lane import WindowLane, WindowShape
from rtl_templates.window_parts import LATENCY, Part, WindowParts
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
        check_weights(weights, kernel_ids, windows.kernel[0] * windows.kernel[1], kernels)
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
        depth = parts.windows.waiting(parts.lists.list_rows, self.cycles)
        connect_lists(m, wiring.flipped(self.x), writer.x, depth)
        wiring.connect(m, results.y, wiring.flipped(self.y))
        m.d.comb += [
            starts.arrived.eq(writer.arrived),
            starts.room.eq(results.room),
            results.reserve.eq(starts.reserve),
        ]
        ends = []
        for number, part in enumerate(parts.parts):
            chain = self._chain(m, number, part)
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

    def _chain(self, m: Module, number: int, part: Part) -> WindowChain:
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
