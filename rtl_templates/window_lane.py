"""A lane of a WindowConv: it reads a part of a window's lists, multiplies, and keeps the sums of one window."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import C, Cat, Module, Mux, Shape, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl_templates import streams
from rtl_templates.mac_engine import delayed
from rtl_templates.product_pair import ProductPair, products
from rtl_templates.result_fifo import ram_style
from rtl_templates.target import target
from rtl_templates.weight_memory import WEIGHT_BITS
from rtl_templates.window_parts import Part, WindowParts


@dataclass(frozen=True)
class WindowShape:
    """What all lanes have in common.

    Attributes:
        parts: of the windows.
        shape: of an activation, 8 bits.
        channels: indices are below it.
        ring: lists that a lane keeps, a power of two.
        sets: complementary sets.
        accumulator: shape of an accumulator.
        offset: of ProductPair.
    """

    parts: WindowParts
    shape: Shape
    channels: int
    ring: int
    sets: int
    accumulator: Shape
    offset: int

    @property
    def entry(self) -> data.StructLayout:
        return streams.entry(self.shape, self.channels)

    @property
    def row_bits(self) -> int:
        return self.parts.lists.row_entries * self.entry.size

    @property
    def phase_bits(self) -> int:
        return (self.parts.lists.list_rows - 1).bit_length()

    @property
    def slot_bits(self) -> int:
        return (self.ring - 1).bit_length()

    @property
    def kernel_bits(self) -> int:
        return (self.parts.kernels - 1).bit_length()

    @property
    def weight_row_bits(self) -> int:
        return (self.parts.weight_rows - 1).bit_length()

    @property
    def offset_bits(self) -> int:
        return (max(part.offsets for part in self.parts.parts) - 1).bit_length()

    @property
    def weight_address_bits(self) -> int:
        """The index, above it the weight row, above it the kernel offset, counted from the part's first."""
        return self.entry["index"].width + self.weight_row_bits + self.offset_bits

    @property
    def sums(self) -> data.ArrayLayout:
        return data.ArrayLayout(self.accumulator, self.sets)

    @property
    def control(self) -> wiring.Signature:
        """What passes along a chain, from group to group of lanes.

        clear: comes after a reset, before anything else: a lane has no other.
        write, write_address, write_row: a row of a list comes; of its address the phase is low, the slot high.
        start, turn, base: the lane of that number begins with a window, whose part begins in that slot.
        """
        return wiring.Signature(
            {
                "clear": Out(1),
                "write": Out(1),
                "write_address": Out(unsigned(self.phase_bits + self.slot_bits)),
                "write_row": Out(unsigned(self.row_bits)),
                "start": Out(1),
                "turn": Out(range(self.parts.lanes)),
                "base": Out(unsigned(self.slot_bits)),
            }
        )


class WindowLane(wiring.Component):
    """A ring of lists, products of a window's part, and accumulators.

        write --> ring --> entry --index--> weight memory (outside)
                    ^        |                    |
        start --> slot       '------value------> (x) --> (+) <--> accumulators[kernel ID] --> drained

    An accumulator is read, added to and written in one cycle. When the part is through, the accumulators leave in order.
    They are never cleared: sums are modulo 2^width, and whoever takes them subtracts what left the same place before.

    Arguments:
        common: what all lanes have in common.
        part: of each window.
        number: of the lane in its chain.
        paired: a multiplier forms two products.

    Members:
        control: see WindowShape.control.
        weight_address, weights: of the weight memory, which answers one cycle later.
        valid, drained: an accumulator of each set, or zeros.

    Latency: `LATENCY` cycles from `start` to when the first product has been added and a register more; `LATENCY` +
    `WindowParts.steps` to the first drained accumulator. Initiation interval: a window in `WindowParts.busy` cycles.
    """

    # From a step to its entry, and to its weights.
    SELECT = 2
    SLOT = SELECT + 3
    # From `start` to the first sum, and a register behind the accumulators.
    LATENCY = 1 + SLOT + ProductPair.LATENCY + 1

    def __init__(self, common: WindowShape, part: Part, number: int, *, paired: bool = True):
        self.common, self.part, self.number, self.paired = common, part, number, paired
        # A lane without pairs has its products sooner, so it begins later: a bit waits instead of all products. It must
        # begin before `base` is the next window's.
        sooner = not paired and common.parts.interval > ProductPair.LATENCY - 2
        self.product_latency = 2 if sooner else ProductPair.LATENCY
        slot = WEIGHT_BITS + common.kernel_bits
        super().__init__(
            {
                "control": In(common.control),
                "weight_address": Out(unsigned(common.weight_address_bits)),
                "weights": In(data.ArrayLayout(unsigned(slot), common.sets)),
                "valid": Out(1),
                "drained": Out(common.sums),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        common = self.common
        step, last_step, address, within_row, weight_place = self._sequence(m)
        entry = self._entry(m, platform, address, within_row)
        m.d.comb += self.weight_address.eq(Cat(entry.index, delayed(m, weight_place, self.SELECT + 1, "place", True)))

        value = delayed(m, entry.value, 2, "value", True)
        # Block RAM is slow.
        slots = [Signal.like(slot, name=f"slot_{i}", reset_less=True) for i, slot in enumerate(self.weights)]
        m.d.sync += [slot.eq(weights) for slot, weights in zip(slots, self.weights, strict=True)]
        formed = products(
            m, value, [slot[:WEIGHT_BITS].as_signed() for slot in slots], common.shape, common.offset, self.paired,
            self.product_latency,
        )  # fmt: skip

        # The drain follows the last product through the same registers.
        drain, kernel = Signal(reset_less=True), Signal(common.kernel_bits, reset_less=True)
        with m.If(delayed(m, last_step, self.SLOT, "last_step", True)):
            m.d.sync += [drain.eq(1), kernel.eq(0)]
        with m.Elif(kernel == common.parts.kernels - 1):
            m.d.sync += drain.eq(0)
        with m.Else():
            m.d.sync += kernel.eq(kernel + 1)
        with m.If(self.control.clear):
            m.d.sync += drain.eq(0)
        add = delayed(m, step, self.SLOT + self.product_latency, "add", True)
        drained = delayed(m, drain, self.product_latency, "drain", True)
        m.d.sync += self.valid.eq(drained)
        for index, (product, slot) in enumerate(zip(formed, slots, strict=True)):
            place = Signal(common.kernel_bits, name=f"place_{index}", reset_less=True)
            m.d.sync += place.eq(Mux(drain, kernel, slot[WEIGHT_BITS:]))
            place = delayed(m, place, self.product_latency - 1, f"place_{index}", True)
            self._accumulate(m, index, product, place, add, drained)
        return m

    def _sequence(self, m: Module) -> tuple[Value, Value, Value, Value, Value]:
        """Whether there is a step, and the last one; row of the ring, entry in it, weight row and offset of the kernel."""
        common, part, control = self.common, self.part, self.control
        parts, window = common.parts, common.parts.windows
        step = Signal(reset_less=True)
        slot = Signal(common.slot_bits, reset_less=True)
        offset, phase = Signal(common.offset_bits, reset_less=True), Signal(common.phase_bits, reset_less=True)
        entry = Signal(range(parts.lists.row_entries), reset_less=True)
        weight_row = Signal(common.weight_row_bits, reset_less=True)

        columns = window.kernel[1]
        wraps = [(part.offset + place) % columns == columns - 1 for place in range(1 << common.offset_bits)]
        wrap = C(sum(1 << place for place, does in enumerate(wraps) if does), len(wraps)).bit_select(offset, 1)
        across = window.dilation[1]
        down = window.dilation[0] * window.padded[1] - (columns - 1) * across
        last_offset, last_phase = divmod(part.phase + parts.rows - 1, parts.lists.list_rows)

        last_of_entry = weight_row == parts.weight_rows - 1
        last_of_row = last_of_entry & (entry == parts.lists.row_entries - 1)
        last_step = Signal()
        m.d.comb += last_step.eq(step & last_of_row & (offset == last_offset) & (phase == last_phase))
        with m.If(step):
            m.d.sync += weight_row.eq(weight_row + 1)
            with m.If(last_of_entry):
                m.d.sync += [weight_row.eq(0), entry.eq(entry + 1)]
            with m.If(last_of_row):
                m.d.sync += [entry.eq(0), phase.eq(phase + 1)]
                with m.If(phase == parts.lists.list_rows - 1):
                    m.d.sync += [phase.eq(0), offset.eq(offset + 1)]
                    m.d.sync += slot.eq(slot + Mux(wrap, down % common.ring, across))
        begin: Value = control.start & (control.turn == self.number)
        waits = [Signal(name=f"begin_{i}", reset_less=True) for i in range(ProductPair.LATENCY - self.product_latency)]
        for register in waits:
            m.d.sync += register.eq(begin)
            begin = register
        with m.If(last_step):
            m.d.sync += step.eq(0)
        with m.If(begin):
            m.d.sync += [
                step.eq(1),
                slot.eq(control.base),
                offset.eq(0),
                phase.eq(part.phase),
                entry.eq(0),
                weight_row.eq(0),
            ]
        with m.If(control.clear):
            m.d.sync += [step.eq(0), *(register.eq(0) for register in waits)]
        return step, last_step, Cat(phase, slot), entry, Cat(weight_row, offset)

    def _entry(self, m: Module, platform, address: Value, within_row: Value) -> data.View:
        """The window's lists entry by entry; 3 cycles from the address."""
        common, control = self.common, self.control
        depth = 1 << (common.slot_bits + common.phase_bits)
        # A list is complete before it is read.
        style = ram_style(depth, platform)
        if style == "block" and target(platform).ultra_ram:
            style = "ultra"
        attributes = {"no_rw_check": 1, "ram_style": style}
        ring = Memory(shape=unsigned(common.row_bits), depth=depth, init=[], attrs=attributes)
        m.submodules.ring = ring
        write, read = ring.write_port(), ring.read_port()
        m.d.comb += [
            write.en.eq(control.write),
            write.addr.eq(control.write_address),
            write.data.eq(control.write_row),
            read.en.eq(1),
            read.addr.eq(address),
        ]
        together = common.parts.lists.row_entries
        entries = Signal(data.ArrayLayout(common.entry, together), reset_less=True)
        entry = Signal(common.entry, reset_less=True)
        chosen = entries[delayed(m, within_row, self.SELECT, "within_row", True)] if together > 1 else entries[0]
        m.d.sync += [entries.eq(read.data), entry.eq(chosen)]
        return entry

    def _accumulate(self, m: Module, index: int, product: Value, place: Value, add: Value, drained: Value) -> None:
        common = self.common
        memory = Memory(shape=common.accumulator, depth=1 << common.kernel_bits, init=[])
        m.submodules[f"accumulators_{index}"] = memory
        write, present = memory.write_port(), memory.read_port(domain="comb")
        m.d.comb += [
            present.addr.eq(place),
            write.addr.eq(place),
            write.en.eq(add),
            write.data.eq(present.data + product),
        ]
        leaving = Signal(common.accumulator, name=f"leaving_{index}", reset_less=True)
        m.d.sync += leaving.eq(Mux(drained, present.data, 0))
        m.d.comb += self.drained[index].eq(leaving)
