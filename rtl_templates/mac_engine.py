"""A layer engine: Combine is done offline; Select, Multiply, Route and Sum happen here.

Complementary Sparsity (arXiv 2112.13896), figures 5 and 8: the same array serves dense activations (the steps are all
columns of the window) and winner lists (the steps are the lists of the window's pixels, and an entry's index selects
the row of the augmented weight tensor).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from rtl_templates import streams
from rtl_templates.accumulators import Accumulators
from rtl_templates.banked_memory import BankedMemory
from rtl_templates.multiplier import borrowed, products, weights_each
from rtl_templates.multiply_accumulate import MultiplyAccumulate
from rtl_templates.result_banks import ResultBanks
from rtl_templates.serial_accumulators import SerialAccumulators
from rtl_templates.shared import Shared
from rtl_templates.walk import Walk, Walker
from rtl_templates.weight_memory import WEIGHT_BITS, weight_rows
from rtl_templates.word_buffer import WordBuffer


class MacEngine(wiring.Component):
    """Buffer, walker, weight memories, multipliers and accumulators of one Linear or Conv2d layer.

        x -> WordBuffer -> activations --.
                ^                        (x) -> Accumulators -> y
             Walker --> weight memory --'

    Without routing, products of values are summed up where they are formed: MultiplyAccumulate, then ResultBanks.

    A reader of the buffer returns `lanes_per_reader` activations (1 for lists); every activation meets `sets` weights.

    Arguments:
        shape: of an activation.
        stream_lanes: values a beat of `x`, or None for a list stream.
        index_size: with a list stream: indices are below it.
        positions, beats: beats of a word, see WordBuffer.
        beats_per_row: beats of a buffer row.
        walk: the schedule.
        weights: int (readers, depth, lanes_per_reader, sets), in [-127, 127].
        kernel_ids: int, same shape, below `kernels`.
        kernels: accumulators a set.
        accumulator: shape.
        banks: of the accumulators.
        routed: whether products go to other kernels than the first of their set; if not, no kernel IDs are stored.
        serial: groups are filled and drained in turn, in one bank: less area, for groups of many steps. The walk's
            interval should be `timing.serial_interval`.

    Members:
        x: value or list stream.
        y: value stream of accumulators, `sets` lanes, `kernels` beats a fold, all folds of a position in order.

    Latency: from a word's last beat to its first result `walk.steps` + 9 cycles, 12 with lists, and that of Accumulators
    (also where MultiplyAccumulate and ResultBanks take their place) or SerialAccumulators. Initiation interval:
    `walk.cycles` a word, or the word's beats where there are more, as long as there are banks enough for the groups that
    are under way.
    """

    def __init__(
        self,
        *,
        shape,
        stream_lanes: int | None,
        index_size: int,
        positions: int,
        beats: int,
        beats_per_row: int,
        walk: Walk,
        weights: NDArray[np.integer],
        kernel_ids: NDArray[np.integer],
        kernels: int,
        accumulator,
        banks: int,
        routed: bool = True,
        serial: bool = False,
    ):
        self.shape, self.stream_lanes, self.walk = shape, stream_lanes, walk
        self.weights, self.kernel_ids, self.kernels = weights, kernel_ids, kernels
        self.accumulator, self.banks = accumulator, banks
        self.routed, self.serial = routed, serial
        payload = streams.entry(shape, index_size) if stream_lanes is None else streams.value_beat(shape, stream_lanes)
        self.lanes_per_reader = 1 if stream_lanes is None else stream_lanes * beats_per_row
        if weights.shape != kernel_ids.shape or weights.shape[0] != walk.readers:
            raise ValueError(f"weights and kernel IDs must be (readers, depth, lanes, sets), not {weights.shape!r}")
        if weights.shape[2] != self.lanes_per_reader:
            raise ValueError(f"weights must have {self.lanes_per_reader} lanes, not {weights.shape[2]!r}")
        if kernel_ids.size and not 0 <= kernel_ids.min() <= kernel_ids.max() < kernels:
            raise ValueError(f"kernel IDs must be below {kernels}")
        if weights.size and np.abs(weights.astype(np.int64)).max() > 127:
            raise ValueError("weights must be in [-127, 127]")
        if not routed and kernel_ids.any():
            raise ValueError(f"kernel IDs must be 0 where products are not routed, not {kernel_ids.max()}")
        if serial and banks != 1:
            raise ValueError(f"serial accumulators have 1 bank, not {banks!r}")
        if serial and not routed:
            raise ValueError("serial accumulators route their products")
        self.buffer = WordBuffer(payload, positions, beats, beats_per_row, readers=walk.readers)
        super().__init__({"x": In(stream.Signature(payload)), "y": Out(streams.values(accumulator, weights.shape[3]))})

    def elaborate(self, platform):
        m = Module()
        readers, depth, lanes, sets = self.weights.shape
        m.submodules.buffer = buffer = self.buffer
        m.submodules.walker = walker = Walker(self.walk, buffer.address_bits, self.banks)
        lists = self.stream_lanes is None
        # The buffer answers one cycle after the walker. A list entry then takes a register, since block memory is slow,
        # and selects its weight row, one cycle more.
        weight_latency = 3 if lists else 0
        operand_latency = weight_latency + BankedMemory.LATENCY + 1
        ready: Value = C(1)
        # Where no product needs routing, each set is a unit of its own; of lists there are few products.
        units = not (lists or self.serial or (self.routed and self.kernels > 1))
        accumulators: Accumulators | SerialAccumulators | ResultBanks
        if self.serial:
            accumulators = SerialAccumulators(
                self.accumulator,
                lanes=readers * lanes,
                sets=sets,
                kernels=self.kernels,
                # The walker counts the credit in one cycle; from its decision on the pipeline is behind the walker.
                lead=1 + walker.LATENCY + operand_latency + 1,
            )
            ready = accumulators.ready
        elif units:
            accumulators = ResultBanks(self.accumulator, sets=sets, kernels=self.kernels, banks=self.banks)
        else:
            accumulators = Accumulators(
                self.accumulator,
                lanes=readers * lanes,
                sets=sets,
                kernels=self.kernels,
                banks=self.banks,
                routed=self.routed,
            )
        m.submodules.accumulators = accumulators
        wiring.connect(m, wiring.flipped(self.x), buffer.x)
        wiring.connect(m, accumulators.y, wiring.flipped(self.y))
        m.d.comb += [
            walker.available.eq(buffer.available & ready),
            buffer.release.eq(walker.release),
            walker.returned.eq(accumulators.returned),
        ]
        steps = ("valid", "first", "last")
        # Operand registers and product registers: the last two stages.
        valid, first, last = (delayed(m, getattr(walker, name), operand_latency + 1, name) for name in steps)
        if not isinstance(accumulators, ResultBanks):
            m.d.comb += [accumulators.valid.eq(valid), accumulators.first.eq(first), accumulators.last.eq(last)]
        kernel_bits = 0 if isinstance(accumulators, ResultBanks) else accumulators.kernel_bits
        shared = weights_each(platform)
        stored = borrowed(self.weights) if shared == 2 else self.weights
        # The sets of each unit, and the slots of a row unit by unit; what the units of all sets have from the readers.
        members = [range(start, min(start + shared, sets)) for start in range(0, sets, shared)]
        order = [lane * sets + index for group in members for lane in range(lanes) for index in group]
        activations: list[Value] = []
        weights: list[Value] = []
        for reader in range(readers):
            m.d.comb += buffer.address[reader].eq(walker.address[reader])
            arrival = 2 if lists else 1
            inside = delayed(m, walker.inside[reader], arrival, f"inside_{reader}")
            slots, kernel_ids = (content[reader].reshape(depth, -1) for content in (stored, self.kernel_ids))
            rows = weight_rows(slots[:, order] if units else slots, kernel_ids, kernel_bits)
            memory = BankedMemory(rows, lanes * sets * (WEIGHT_BITS + kernel_bits))
            m.submodules[f"weights_{reader}"] = memory
            if lists:
                entry = Signal(self.x.payload.shape(), name=f"entry_{reader}")
                m.d.sync += entry.eq(buffer.data[reader][0])
                base = delayed(m, walker.weight[reader], arrival, f"base_{reader}")
                row = Signal(range(max(depth, 2)), name=f"row_{reader}")
                m.d.sync += row.eq(base + entry.index)
                m.d.comb += memory.address.eq(row)
                arrived = [entry.value]
            else:
                m.d.comb += memory.address.eq(walker.weight[reader])
                places = self.buffer.beats_per_row
                arrived = [
                    buffer.data[reader][place][lane] for place in range(places) for lane in range(lanes // places)
                ]
            weights.append(memory.data)
            for lane, value in enumerate(arrived):
                masked = Signal(self.shape, name=f"masked_{reader}_{lane}")
                m.d.comb += masked.eq(Mux(inside, value, 0))
                activation = delayed(m, masked, operand_latency - arrival, f"activation_{reader}_{lane}", True)
                activations.append(activation)
                if not isinstance(accumulators, ResultBanks):
                    self._route(m, platform, accumulators, activation, memory.data, reader, lane)
        if isinstance(accumulators, ResultBanks):
            levels = (readers * lanes - 1).bit_length()
            summed = [
                delayed(m, flag, levels, f"{name}_sum") for name, flag in zip(steps, (valid, first, last), strict=True)
            ]
            self._accumulate(m, accumulators, summed, Cat(activations), weights, members)
        return m

    def _accumulate(
        self,
        m: Module,
        results: ResultBanks,
        step: Sequence[Value],
        activations: Value,
        rows: Sequence[Value],
        members: Sequence[range],
    ):
        """A unit for each group of sets that share multipliers, fed with all lanes at once."""
        readers, _, lanes, _ = self.weights.shape
        valid, first, last = step
        x = Signal(len(activations))
        m.d.comb += x.eq(activations)
        m.d.sync += results.done.eq(valid & last)
        totals: list[Value] = []
        for sets in members:
            unit = Shared(
                MultiplyAccumulate,
                shape=self.shape,
                total=self.accumulator,
                lanes=readers * lanes,
                sets=len(sets),
            )
            m.submodules[f"sets_{sets.start}"] = unit
            start, end = (place * lanes * WEIGHT_BITS for place in (sets.start, sets.stop))
            m.d.comb += [
                unit.component.x.eq(x),
                unit.component.weights.eq(Cat(row[start:end] for row in rows)),
                unit.component.valid.eq(valid),
                unit.component.first.eq(first),
            ]
            totals += unit.component.y
        m.d.comb += results.row.eq(Cat(totals))

    def _route(self, m, platform, accumulators: Accumulators | SerialAccumulators, activation, row, reader, lane):
        """Products of an activation, each to the accumulator that its kernel ID names."""
        _, _, lanes, sets = self.weights.shape
        kernel_bits, shared = accumulators.kernel_bits, weights_each(platform)
        # A slice of a wide row costs elaboration time in proportion to the row: cut it up lane by lane first.
        slots = Signal(sets * (WEIGHT_BITS + kernel_bits), name=f"slots_{reader}_{lane}")
        m.d.comb += slots.eq(row[lane * len(slots) : (lane + 1) * len(slots)])
        made: list[Value] = []
        for index in range(0, sets, shared):
            bits = [i * (WEIGHT_BITS + kernel_bits) for i in range(index, min(index + shared, sets))]
            weights = [slots[bit : bit + WEIGHT_BITS] for bit in bits]
            made += products(m, platform, activation, weights, f"{reader}_{lane}_{index}")
        for index, product in enumerate(made):
            bit = index * (WEIGHT_BITS + kernel_bits)
            place = (reader * lanes + lane) * sets + index
            m.d.comb += accumulators.products[place].eq(product)
            if kernel_bits:
                kernel_id = slots[bit + WEIGHT_BITS : bit + WEIGHT_BITS + kernel_bits]
                m.d.comb += accumulators.kernel_ids[place].eq(
                    delayed(m, kernel_id, 2, f"kernel_id_{reader}_{lane}_{index}")
                )


def delayed(m: Module, value, cycles: int, name: str, reset_less: bool = False):
    """`value`, that many cycles later."""
    for stage in range(cycles):
        register = Signal(value.shape(), name=f"{name}_delayed_{stage}", reset_less=reset_less)
        m.d.sync += register.eq(value)
        value = register
    return value
