"""Products of one activation with several weights: two of them from one multiplier."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from amaranth.hdl import Cat, Module, Shape, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl_templates.weight_memory import WEIGHT_BITS


def product_shape(shape: Shape) -> Shape:
    """Of the product of an activation and a weight in [-127, 127]."""
    return signed(shape.width + WEIGHT_BITS - shape.signed)


class Product(wiring.Component):
    """activation * weight, in as many cycles as ProductPair takes unless told otherwise.

    Arguments:
        shape: of the activation.
        latency: at least 2, which a multiplier block has registers for.

    Members:
        activation, weight: the operands.
        product: of `product_shape(shape)`.

    Latency: `latency` cycles. Initiation interval: 1 cycle.
    """

    LATENCY = 4

    def __init__(self, shape: Shape, latency: int = LATENCY):
        self.shape, self.latency = shape, latency
        super().__init__(
            {"activation": In(shape), "weight": In(signed(WEIGHT_BITS)), "product": Out(product_shape(shape))}
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        activation = Signal(self.shape, reset_less=True)
        weight = Signal(signed(WEIGHT_BITS), reset_less=True)
        stages = [Signal(self.product.shape(), name=f"product_{i}", reset_less=True) for i in range(self.latency - 1)]
        m.d.sync += [activation.eq(self.activation), weight.eq(self.weight), stages[0].eq(activation * weight)]
        for before, after in pairwise(stages):
            m.d.sync += after.eq(before)
        m.d.comb += self.product.eq(stages[-1])
        return m


class ProductPair(wiring.Component):
    """activation * weights[0] and activation * weights[1] from one multiplier.

    One operand holds both weights, the second `offset` bits above the first:

        T = activation * (weights[0] + weights[1] * 2^offset) = P0 + P1 * 2^offset

    The low `offset` bits of T are those of P0. Where P0 is wider, its high part H overlaps the low bits of P1 in T. These
    are the low bits of activation * weights[1], which depend on as many low bits of the operands only and come from a
    few LUTs: H is their difference. P1 is what remains of T without H, and since its low bits are known already, what
    is left to correct is the sign of H and the carry out of the overlap.

        operands --|--> multiplier ---|--> H ----|--> P1
                   '--> low bits of P1 --|-------'

    Arguments:
        shape: of the activation.
        offset: at least the bits of a weight. The operand takes `offset` + 8 bits: 10 fits a port of 18 bits; 18 one of
            27 bits, where no LUTs are needed for int8.

    Members:
        activation: the shared operand.
        weights: two, in [-127, 127].
        products: of `product_shape(shape)`.

    Latency: 4 cycles: operands, multiplier, correction, results. Initiation interval: 1 cycle.
    """

    LATENCY = Product.LATENCY

    def __init__(self, shape: Shape, offset: int = 10):
        if offset < WEIGHT_BITS:
            raise ValueError(f"offset must be at least {WEIGHT_BITS}, not {offset!r}")
        self.shape, self.offset = shape, offset
        super().__init__(
            {
                "activation": In(shape),
                "weights": In(signed(WEIGHT_BITS)).array(2),
                "products": Out(product_shape(shape)).array(2),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        first, second = self.weights
        offset, width = self.offset, product_shape(self.shape).width
        overlap = max(0, width - offset)

        # A negative first weight borrows from the second.
        negative = first[-1]
        upper = Signal(signed(WEIGHT_BITS))
        activation = Signal(self.shape, reset_less=True)
        operand = Signal(signed(offset + WEIGHT_BITS), reset_less=True)
        total = Signal(signed(self.shape.width + offset + WEIGHT_BITS), reset_less=True)
        m.d.comb += upper.eq(second - negative)
        m.d.sync += [
            activation.eq(self.activation),
            operand.eq(Cat(first, negative.replicate(offset - WEIGHT_BITS), upper)),
            total.eq(activation * operand),
        ]

        # What P0 has above `offset`: its high part, or its sign alone where `offset` leaves room for all of it.
        low_1 = Signal(overlap)
        lower = Signal(offset, reset_less=True)
        rest = Signal(signed(width - overlap), reset_less=True)
        m.d.sync += [lower.eq(total[:offset]), rest.eq(total[offset + overlap :])]
        if overlap:
            m.d.comb += low_1.eq(_low_product(m, self.activation[:overlap], second[:overlap]))
            difference = Signal(overlap + 1, reset_less=True)
            m.d.sync += difference.eq(total[offset : offset + overlap] - low_1)
            sign, carry = difference[overlap - 1], difference[overlap]
            correction = Cat(sign ^ carry, carry & ~sign).as_signed()
            first_product = Cat(lower, difference[:overlap])
        else:
            correction = lower[-1]
            first_product = lower[:width]
        low_2 = Signal(overlap, reset_less=True)
        results = [Signal(signed(width), name=f"result_{i}", reset_less=True) for i in range(2)]
        corrected = Signal(signed(width - overlap))
        m.d.comb += corrected.eq(rest + correction)
        m.d.sync += [low_2.eq(low_1), results[0].eq(first_product), results[1].eq(Cat(low_2, corrected))]
        m.d.comb += [self.products[i].eq(results[i]) for i in range(2)]
        return m


def products(
    m: Module,
    activation: Value,
    weights: Sequence[Value],
    shape: Shape,
    offset: int,
    paired: bool,
    latency: int = Product.LATENCY,
) -> list[Value]:
    """Products of an activation with several weights, `latency` cycles later, by pairs as far as there are any.

    Args:
        m: that the multipliers become submodules of.
        activation: of `shape`.
        weights: in [-127, 127].
        shape: of the activation.
        offset: of ProductPair.
        paired: whether a multiplier forms two products.
        latency: of products that are not paired.
    """
    result: list[Value] = []
    while len(result) < len(weights):
        first = len(result)
        if paired and first + 1 < len(weights):
            m.submodules[f"pair_{first}"] = pair = ProductPair(shape, offset)
            m.d.comb += pair.activation.eq(activation)
            m.d.comb += [pair.weights[i].eq(weights[first + i]) for i in range(2)]
            result += list(pair.products)
        else:
            m.submodules[f"product_{first}"] = single = Product(shape, latency)
            m.d.comb += [single.activation.eq(activation), single.weight.eq(weights[first])]
            result.append(single.product)
    return result


def _low_product(m: Module, a: Value, b: Value) -> Value:
    """The product's low half, 2 cycles later; written in gates, which LUTs absorb better than carry chains."""
    width = len(a)
    # Partial products of the two low bits of b, and of the others.
    below, above = Signal(width, reset_less=True), Signal(max(0, width - 2), reset_less=True)
    m.d.sync += below.eq(_shift_and_add(a, b[:2], width))
    m.d.sync += above.eq(_shift_and_add(a, b[2:], width - 2))
    result = Signal(width, name="low_product", reset_less=True)
    m.d.sync += result.eq(Cat(below[:2], _add(list(below[2:]), list(above))))
    return result


def _shift_and_add(a: Value, b: Value, width: int) -> Value:
    bits: list[Value] = []
    for position in range(min(len(b), width)):
        row = [a[i] & b[position] for i in range(width - position)]
        bits = bits[:position] + (_add(bits[position:], row) if bits else row)
    return Cat(bits)


def _add(a: list[Value], b: list[Value]) -> list[Value]:
    """The sum's low bits, as many as an addend has."""
    result: list[Value] = []
    carry: Value | None = None
    for x, y in zip(a, b, strict=True):
        half = x ^ y
        result.append(half if carry is None else half ^ carry)
        carry = x & y if carry is None else (x & y) | (half & carry)
    return result
