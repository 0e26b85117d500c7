"""A vector times constants, a vector a cycle, without multipliers."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Shape, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl_templates.adder_graph import AdderGraph, Term, passing_bits


class AdderPipeline(wiring.Component):
    """The adders of a graph, each with a register, and the registers that make operands arrive together.

    Fused nodes have none of both: their operands are those of the adders that read them.

    Nothing enables or resets them: what goes in comes out `latency` cycles later.

    Arguments:
        graph: the adders and their levels.
        accumulator: shape of every output; holds the widest.

    Members:
        x: the inputs, from registers.
        y: the outputs.

    Latency: `graph.depth` cycles. Initiation interval: 1 cycle.
    """

    def __init__(self, graph: AdderGraph, accumulator: Shape):
        for output in graph.outputs:
            if not fits(output.low, output.high, accumulator):
                raise ValueError(f"accumulator must hold {output.low} to {output.high}, not {accumulator!r}")
        self.graph = graph
        self.latency = graph.depth
        super().__init__(
            {
                "x": In(data.ArrayLayout(shape_of(graph.low, graph.input_bits), graph.inputs)),
                "y": Out(data.ArrayLayout(accumulator, len(graph.outputs))),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        graph = self.graph
        # Of each value, its register at every level from its own on.
        held: list[list[Value]] = []
        since = [0] * graph.inputs + [node.level for node in graph.nodes]
        for place in range(graph.inputs):
            value = Signal(self.x.shape().elem_shape, name=f"input_{place}")
            m.d.comb += value.eq(self.x[place])
            held.append([value])
        last = graph.last_levels()

        def at(value: int, level: int) -> Value:
            return held[value][level - since[value]]

        def hold(value: int) -> None:
            for level in range(since[value] + 1, last[value] + 1):
                register = Signal(held[value][0].shape(), name=f"value_{value}_{level}", reset_less=True)
                m.d.sync += register.eq(held[value][-1])
                held[value].append(register)

        for place in range(graph.inputs):
            hold(place)
        for index, node in enumerate(graph.nodes, start=graph.inputs):
            total = Signal(shape_of(node.low, node.bits), name=f"value_{index}", reset_less=True)
            if not node.fused:
                terms = graph.terms(node)
                m.d.sync += total.eq(_sum(terms, [at(term.value, node.level - 1) for term in terms], node.bits))
            held.append([total])
            hold(index)
        for place, output in enumerate(graph.outputs):
            if output.value is None:
                m.d.comb += self.y[place].eq(0)
                continue
            value = at(output.value, graph.depth)
            m.d.comb += self.y[place].eq(value << output.shift if output.shift >= 0 else value >> -output.shift)
        return m


def _sum(terms: Sequence[Term], values: Sequence[Value], bits: int) -> Value:
    """One addition, of all operands at once, and no carry chain for bits that pass."""
    passing = passing_bits(terms)
    # The operand that passes comes first; else any that is not subtracted.
    order = sorted(range(len(terms)), key=lambda i: (terms[i].negative, terms[i].shift))
    first, *others = order
    if terms[first].shift == 0:
        wide = _extended(values[first], bits)
        low, total = wide[:passing], wide[passing:bits].as_signed()
    else:
        low, total = Cat(), values[first] << terms[first].shift
    for i in others:
        operand = values[i] << (terms[i].shift - passing)
        total = total - operand if terms[i].negative else total + operand
    return Cat(low, total[: bits - passing])


def _extended(value: Value, bits: int) -> Value:
    value = Value.cast(value)
    if len(value) >= bits:
        return value
    sign = value[-1] if value.shape().signed else 0
    return Cat(value, *[sign] * (bits - len(value)))


def shape_of(low: int, bits: int) -> Shape:
    """Of a value with that lower end of its range and that many bits."""
    return signed(bits) if low < 0 else unsigned(bits)


def fits(low: int, high: int, shape: Shape) -> bool:
    """Whether a shape holds a range."""
    least, beyond = (-(1 << shape.width) // 2, (1 << shape.width) // 2) if shape.signed else (0, 1 << shape.width)
    return least <= low and high < beyond
