"""A layer engine: Combine is done offline; Select, Multiply, Route and Sum happen here.

Complementary Sparsity (arXiv 2112.13896), figures 5 and 8: the same array serves dense activations (the steps are all
columns of the window) and winner lists (the steps are the lists of the window's pixels, and an entry's index selects
the row of the augmented weight tensor).
"""

from __future__ import annotations

import numpy as np
from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from rtl_templates import streams
from rtl_templates.accumulators import Accumulators
from rtl_templates.banked_memory import BankedMemory
from rtl_templates.serial_accumulators import SerialAccumulators
from rtl_templates.target import target
from rtl_templates.walk import Walk, Walker
from rtl_templates.weight_memory import WEIGHT_BITS, weight_rows
from rtl_templates.word_buffer import WordBuffer

# Of an activation and a weight, with a sign.
_PRODUCT_BITS = 17


class MacEngine(wiring.Component):
    """Buffer, walker, weight memories, multipliers and accumulators of one Linear or Conv2d layer.

        x -> WordBuffer -> activations --.
                ^                        (x) -> Accumulators -> y
             Walker --> weight memory --'

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

    Latency: from a word's last beat to its first result `walk.steps` + 7 cycles, 10 with lists, and that of Accumulators
    or SerialAccumulators. Initiation interval: `walk.cycles` a word, or the word's beats where there are more, as long
    as there are banks enough for the groups that are under way.
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
        accumulators: Accumulators | SerialAccumulators
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
        for name in ("valid", "first", "last"):
            # Operand registers and product registers: the last two stages.
            m.d.comb += getattr(accumulators, name).eq(delayed(m, getattr(walker, name), operand_latency + 1, name))
        kernel_bits = accumulators.kernel_bits
        # Where a multiplier block is wide enough, two sets share it: products of an activation and
        # weights[0] + weights[1] * 2^offset lie apart.
        offset = target(platform).pair_offset
        shared = 2 if offset >= _PRODUCT_BITS else 1
        stored = _borrowed(self.weights) if shared == 2 else self.weights
        for reader in range(readers):
            m.d.comb += buffer.address[reader].eq(walker.address[reader])
            arrival = 2 if lists else 1
            inside = delayed(m, walker.inside[reader], arrival, f"inside_{reader}")
            rows = weight_rows(
                stored[reader].reshape(depth, -1), self.kernel_ids[reader].reshape(depth, -1), kernel_bits
            )
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
            for lane, value in enumerate(arrived):
                masked = Signal(self.shape, name=f"masked_{reader}_{lane}")
                m.d.comb += masked.eq(Mux(inside, value, 0))
                activation = delayed(m, masked, operand_latency - arrival, f"activation_{reader}_{lane}", True)
                # A slice of a wide row costs elaboration time in proportion to the row: cut it up lane by lane first.
                slots = Signal(sets * (WEIGHT_BITS + kernel_bits), name=f"slots_{reader}_{lane}")
                m.d.comb += slots.eq(memory.data[lane * len(slots) : (lane + 1) * len(slots)])
                products: list[Value] = []
                for index in range(0, sets, shared):
                    bits = [i * (WEIGHT_BITS + kernel_bits) for i in range(index, min(index + shared, sets))]
                    weights = [slots[bit : bit + WEIGHT_BITS] for bit in bits]
                    products += _products(m, activation, weights, offset, f"{reader}_{lane}_{index}")
                for index, product in enumerate(products):
                    bit = index * (WEIGHT_BITS + kernel_bits)
                    place = (reader * lanes + lane) * sets + index
                    m.d.comb += accumulators.products[place].eq(product)
                    if kernel_bits:
                        kernel_id = slots[bit + WEIGHT_BITS : bit + WEIGHT_BITS + kernel_bits]
                        m.d.comb += accumulators.kernel_ids[place].eq(
                            delayed(m, kernel_id, 2, f"kernel_id_{reader}_{lane}_{index}")
                        )
        return m


def _borrowed(weights: NDArray[np.integer]) -> NDArray[np.int64]:
    """Weights of which two share a multiplier: a negative first one borrows from the second."""
    result = weights.astype(np.int64)
    second = result[..., 1::2]
    second -= weights[..., ::2][..., : second.shape[-1]] < 0
    return result


def _products(m: Module, activation: Value, weights: list[Value], offset: int, name: str) -> list[Value]:
    """One multiplier, for a weight or for two from `_borrowed`; 2 cycles from the weights, 1 from the activation."""
    # Without reset, as the registers inside multiplier blocks are here.
    if len(weights) == 1:
        weight = Signal(signed(WEIGHT_BITS), name=f"weight_{name}", reset_less=True)
        product = Signal(signed(_PRODUCT_BITS), name=f"product_{name}", reset_less=True)
        m.d.sync += [weight.eq(weights[0]), product.eq(activation * weight)]
        return [product]
    first, second = weights
    operand = Signal(signed(offset + WEIGHT_BITS), name=f"weights_{name}", reset_less=True)
    both = Signal(signed(offset + _PRODUCT_BITS), name=f"products_{name}", reset_less=True)
    m.d.sync += [
        operand.eq(Cat(first, first[-1].replicate(offset - WEIGHT_BITS), second)),
        both.eq(activation * operand),
    ]
    # A negative first product has borrowed from the second.
    return [both[:_PRODUCT_BITS].as_signed(), both[offset:].as_signed() + both[offset - 1]]


def delayed(m: Module, value, cycles: int, name: str, reset_less: bool = False):
    """`value`, that many cycles later."""
    for stage in range(cycles):
        register = Signal(value.shape(), name=f"{name}_delayed_{stage}", reset_less=reset_less)
        m.d.sync += register.eq(value)
        value = register
    return value
