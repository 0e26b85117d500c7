"""Sums of products of a vector of activations with one or two vectors of weights."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Module, Mux, Shape, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl_templates.multiplier import products
from rtl_templates.weight_memory import WEIGHT_BITS


class MultiplyAccumulate(wiring.Component):
    """Multipliers, a registered tree of adders over the lanes, and an accumulator over the steps of a group.

    Arguments:
        shape: of an activation.
        total: of a sum and of every part of it.
        lanes: activations.
        sets: vectors of weights: as many as share a multiplier, 1 or 2 (`multiplier.weights_each`).

    Members:
        x: the activations, lane by lane, a cycle after their weights.
        weights: of each lane and set, lane-major; two of a lane as `multiplier.borrowed` makes them.
        valid, first: of a step of a group, `latency` - 1 cycles after its weights.
        y: the sum of each set up to this step.

    Latency: from the weights, see `latency`. Initiation interval: 1 cycle.
    """

    def __init__(self, shape: Shape, total: Shape, lanes: int, sets: int):
        self.shape, self.total, self.lanes, self.sets = shape, total, lanes, sets
        self.latency = 3 + (lanes - 1).bit_length()
        super().__init__(
            {
                # Bits, not fields: each field of each instance would be a wire of its own.
                "x": In(lanes * shape.width),
                "weights": In(lanes * sets * WEIGHT_BITS),
                "valid": In(1),
                "first": In(1),
                "y": Out(total).array(sets),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        terms: list[list[Value]] = [[] for _ in range(self.sets)]
        for lane in range(self.lanes):
            activation = Signal(self.shape, name=f"activation_{lane}")
            m.d.comb += activation.eq(self.x.word_select(lane, self.shape.width))
            weights = [
                self.weights.word_select(place, WEIGHT_BITS)
                for place in range(lane * self.sets, (lane + 1) * self.sets)
            ]
            made = products(m, platform, activation, weights, f"lane_{lane}")
            for column, product in zip(terms, made, strict=True):
                column.append(product)
        for index, column in enumerate(terms):
            total = self._sum(m, column, index)
            with m.If(self.valid):
                m.d.sync += self.y[index].eq(Mux(self.first, 0, self.y[index]) + total)
        return m

    def _sum(self, m: Module, terms: Sequence[Value], index: int) -> Value:
        level = 0
        while len(terms) > 1:
            nodes = [Signal(self.total, name=f"node_{index}_{level}_{i}") for i in range(-(-len(terms) // 2))]
            for i, node in enumerate(nodes):
                m.d.sync += node.eq(sum(terms[2 * i + 1 : 2 * i + 2], start=terms[2 * i]))
            terms, level = nodes, level + 1
        return terms[0]
