"""A lane of a ListConv: the lists that its kernel offsets meet, their products and their accumulators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Shape, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl_templates import streams
from rtl_templates.product_pair import ProductPair, products
from rtl_templates.result_fifo import ram_style
from rtl_templates.sub_lists import SubLists
from rtl_templates.target import target
from rtl_templates.weight_memory import WEIGHT_BITS


@dataclass(frozen=True)
class LaneShape:
    """What all lanes have in common.

    Attributes:
        shape: of an activation.
        channels: indices are below it.
        lists: their entries, and how they are cut.
        weight_rows: rows of the augmented weight tensor for each channel.
        depth: lists that a lane's FIFO holds for each part, a power of two.
        parts: that a lane serves for each position, one after the other; each is a sub-list at a kernel offset.
        kernel_rows, kernel_columns: extent of the kernel.
        sets, kernels: complementary sets, and kernels of each.
        accumulator: shape of an accumulator.
        offset: of ProductPair.
    """

    shape: Shape
    channels: int
    lists: SubLists
    weight_rows: int
    depth: int
    parts: int
    kernel_rows: int
    kernel_columns: int
    sets: int
    kernels: int
    accumulator: Shape
    offset: int

    @property
    def steps(self) -> int:
        """Cycles that a position takes: a sub-list for each part."""
        return self.lists.reads * self.weight_rows * self.parts

    @property
    def row_bits(self) -> int:
        return self.lists.row_entries * self.entry.size

    @property
    def phase_bits(self) -> int:
        return (self.lists.rows - 1).bit_length()

    @property
    def slot_bits(self) -> int:
        return (self.depth - 1).bit_length()

    @property
    def part_bits(self) -> int:
        return (self.parts - 1).bit_length()

    @property
    def weight_row_bits(self) -> int:
        return (self.weight_rows - 1).bit_length()

    @property
    def kernel_bits(self) -> int:
        return (self.kernels - 1).bit_length()

    @property
    def entry(self) -> data.StructLayout:
        return streams.entry(self.shape, self.channels)

    @property
    def weight_address_bits(self) -> int:
        """Of what a lane has in a weight memory: the index, above it the weight row, above it the part."""
        return self.entry["index"].width + self.weight_row_bits + self.part_bits

    @property
    def sums(self) -> data.ArrayLayout:
        return data.ArrayLayout(self.accumulator, self.sets)

    @property
    def control(self) -> wiring.Signature:
        """What passes from lane to lane; every member in the cycle in which the lane uses it.

        clear: comes after a reset, before anything else: a lane has no other.
        write, write_part: a FIFO row comes, and for which part: a sub-list comes once for each.
        write_last, write_phase: whether the row is the sub-list's last, and its number there.
        write_taps: the row of that number of every sub-list. They change places with each part, so that a lane finds
            all of its own at one place.
        write_rows, write_columns: whether lanes of each kernel row and each kernel column need the pixel.
        read_address: FIFO row of a step: the part, below it the slot, below it the phase.
        entry: of the row, `ConvLane.SELECT` cycles later.
        weight_row: of the column, above it the part, `ConvLane.SELECT` + 1 cycles later.
        add, add_bank: products go to the accumulators of a bank, `ConvLane.ADD` cycles later.
        drain, drain_live, drain_address: one accumulator of each set leaves: bank, below it the kernel.
        """
        return wiring.Signature(
            {
                "clear": Out(1),
                "write": Out(1),
                "write_part": Out(unsigned(self.part_bits)),
                "write_last": Out(1),
                "write_phase": Out(unsigned(self.phase_bits)),
                "write_taps": Out(data.ArrayLayout(unsigned(self.row_bits), self.lists.split)),
                "write_rows": Out(unsigned(self.kernel_rows)),
                "write_columns": Out(unsigned(self.kernel_columns)),
                "read_address": Out(unsigned(self.part_bits + self.slot_bits + self.phase_bits)),
                "entry": Out(unsigned(self.lists.row_entries - 1)),
                "weight_row": Out(unsigned(self.part_bits + self.weight_row_bits)),
                "add": Out(1),
                "add_bank": Out(1),
                "drain": Out(1),
                "drain_live": Out(1),
                "drain_address": Out(unsigned(self.kernel_bits + 1)),
            }
        )


class ConvLane(wiring.Component):
    """FIFO of lists, products with the weights of its kernel offsets, and accumulators.

        write --> FIFO --> entry --index--> weight memory (outside)
                             |                    |
                             '------value------> (x) --> (+) <--> accumulators[bank, kernel ID]
                                                                        |
                                                                        '------------> drained

    An accumulator is read, added to and written in one cycle. It is never cleared: sums are modulo 2^width, and whoever
    takes the drained sums subtracts what was drained from the same place before.

    Arguments:
        lane: what all lanes have in common.
        offsets: row and column in the kernel of each part; the parts that are missing add nothing.
        tap: place in write_taps where the sub-list of each part comes.
        late: drains a cycle later, in step with the next lane.

    Members:
        control, next_control: see LaneShape.control; one cycle apart.
        weight_address, weights: of the weight memory, which answers one cycle later.
        drained: one sum of each set, without a register.

    Latency: from read_address to the accumulators `ADD` + 1 cycles, from drain_address to drained none, or 1 if late.
    Initiation interval: 1 cycle a step.
    """

    SELECT = 2
    ADD = 5 + ProductPair.LATENCY

    def __init__(
        self,
        lane: LaneShape,
        offsets: Sequence[tuple[int, int]],
        *,
        tap: int = 0,
        late: bool = False,
        paired: bool = True,
    ):
        self.lane, self.offsets, self.tap, self.late, self.paired = lane, offsets, tap, late, paired
        slot = WEIGHT_BITS + lane.kernel_bits
        super().__init__(
            {
                "control": In(lane.control),
                "next_control": Out(lane.control),
                "weight_address": Out(unsigned(lane.weight_address_bits)),
                "weights": In(data.ArrayLayout(unsigned(slot), lane.sets)),
                "drained": Out(lane.sums),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        lane, control = self.lane, self.control
        for name, member in lane.control.members.items():
            register = Signal(member.shape, name=f"next_{name}", reset_less=True)
            m.d.sync += register.eq(getattr(control, name))
            m.d.comb += getattr(self.next_control, name).eq(register)

        entry = self._entry(m, platform)
        m.d.comb += self.weight_address.eq(Cat(entry.index, control.weight_row))
        value = entry.value
        for stage in range(2):
            delayed = Signal(lane.shape, name=f"value_{stage}", reset_less=True)
            m.d.sync += delayed.eq(value)
            value = delayed
        weights, kernel_ids = [], []
        for index in range(lane.sets):
            # Block RAM is slow.
            slot = Signal.like(self.weights[index], name=f"slot_{index}", reset_less=True)
            m.d.sync += slot.eq(self.weights[index])
            weights.append(slot[:WEIGHT_BITS].as_signed())
            kernel_id = slot[WEIGHT_BITS:]
            for stage in range(ProductPair.LATENCY):
                delayed = Signal(lane.kernel_bits, name=f"kernel_id_{index}_{stage}", reset_less=True)
                m.d.sync += delayed.eq(kernel_id)
                kernel_id = delayed
            kernel_ids.append(kernel_id)
        formed = products(m, value, weights, lane.shape, lane.offset, self.paired)
        for index, (product, kernel_id) in enumerate(zip(formed, kernel_ids, strict=True)):
            self._accumulate(m, index, product, kernel_id)
        return m

    def _entry(self, m: Module, platform) -> data.View:
        """The lists that this lane meets, entry by entry; 3 cycles from the address."""
        lane, control = self.lane, self.control
        depth = 1 << (lane.part_bits + lane.slot_bits + lane.phase_bits)
        # A list is complete before it is read.
        style = ram_style(depth, platform)
        if style == "block" and target(platform).ultra_ram:
            style = "ultra"
        attributes = {"no_rw_check": 1, "ram_style": style}
        fifo = Memory(shape=unsigned(lane.row_bits), depth=depth, init=[], attrs=attributes)
        m.submodules.fifo = fifo
        write, read = fifo.write_port(), fifo.read_port()
        slots = {
            (row, column): Signal(lane.slot_bits, name=f"slot_{row}_{column}", reset_less=True)
            for row, column in self.offsets
        }
        needed, slot = Signal(), Signal(lane.slot_bits)
        m.d.comb += [
            write.en.eq(control.write & needed),
            write.addr.eq(Cat(control.write_phase, slot, control.write_part)),
            write.data.eq(control.write_taps[self.tap]),
            read.en.eq(1),
            read.addr.eq(control.read_address),
        ]
        for part, offset in enumerate(self.offsets):
            row, column = offset
            with m.If(control.write_part == part):
                m.d.comb += [needed.eq(control.write_rows[row] & control.write_columns[column]), slot.eq(slots[offset])]
                # The next list's place, once all parts of this one are there.
                if offset not in self.offsets[part + 1 :]:
                    with m.If(write.en & control.write_last):
                        m.d.sync += slots[offset].eq(slots[offset] + 1)
        with m.If(control.clear):
            m.d.sync += [slot.eq(0) for slot in slots.values()]
        together = lane.lists.row_entries
        entries = Signal(data.ArrayLayout(lane.entry, together), reset_less=True)
        entry = Signal(lane.entry, reset_less=True)
        m.d.sync += [entries.eq(read.data), entry.eq(entries[control.entry] if together > 1 else entries[0])]
        return entry

    def _accumulate(self, m: Module, index: int, product: Value, kernel_id: Value) -> None:
        lane, control = self.lane, self.control
        memory = Memory(shape=lane.accumulator, depth=2 << lane.kernel_bits, init=[])
        m.submodules[f"accumulators_{index}"] = memory
        write = memory.write_port()
        present, drain = memory.read_port(domain="comb"), memory.read_port(domain="comb")
        address = Cat(kernel_id, control.add_bank)
        m.d.comb += [
            present.addr.eq(address),
            write.addr.eq(address),
            write.en.eq(control.add),
            write.data.eq(present.data + product),
            drain.addr.eq((self.next_control if self.late else control).drain_address),
        ]
        m.d.comb += self.drained[index].eq(drain.data)
