from __future__ import annotations

import numpy as np
import pytest

from hwgen.plan.unrolled_graph import adder_graph
from rtl_templates.adder_graph import used

DRAW = np.random.default_rng(5)


def sparse(inputs: int, outputs: int, kept: int) -> np.ndarray:
    """A random matrix with `kept` non-zeros a column."""
    weights = DRAW.integers(-127, 128, (inputs, outputs))
    order = DRAW.random((inputs, outputs)).argsort(axis=0)
    return np.where(order < kept, weights, 0)


def columns() -> np.ndarray:
    """Zero, equal, opposite, shifted and single columns beside each other."""
    column = DRAW.integers(-127, 128, 9)
    single = np.where(np.arange(9) == 4, -96, 0)
    return np.stack([0 * column, column, column, -column, 4 * column, single, -single, 0 * column], axis=1)


MATRICES = {
    "one": np.array([[1]]),
    "minus one": np.array([[-1]]),
    "zero": np.array([[0]]),
    "shifted": np.array([[-96]]),
    "all zero": np.zeros((3, 4), dtype=int),
    "row": np.array([[3, 3, -3, 0, 127, -127]]),
    "column": np.array([[5], [0], [-3]]),
    "negative only": -DRAW.integers(1, 128, (6, 5)),
    "special columns": columns(),
    "dense": sparse(12, 20, 12),
    "sparse": sparse(25, 64, 12),
    "singles": sparse(30, 17, 1),
    "wide weights": DRAW.integers(-(1 << 20) + 1, 1 << 20, (4, 3)),
}


@pytest.mark.parametrize("operands", [2, 3])
@pytest.mark.parametrize("span", [(-128, 127), (0, 255), (0, 1), (-3, 0)])
@pytest.mark.parametrize("name", MATRICES)
def test_is_the_product_within_its_ranges(name, span, operands):
    weights = MATRICES[name]
    graph = adder_graph(weights, *span, operands=operands)
    x = DRAW.integers(span[0], span[1] + 1, (50, len(weights)))
    assert (graph.evaluate(x) == x @ weights).all()
    # The extremes of an output are taken where every input is the one or the other end of its range.
    highest = np.where(weights > 0, span[1] * weights, span[0] * weights).sum(axis=0)
    lowest = np.where(weights > 0, span[0] * weights, span[1] * weights).sum(axis=0)
    assert [(o.low, o.high) for o in graph.outputs] == list(zip(lowest, highest, strict=True))


@pytest.mark.parametrize("name", MATRICES)
def test_operands_come_first(name):
    graph = adder_graph(MATRICES[name], -128, 127)
    levels = [0] * graph.inputs
    for node in graph.nodes:
        assert max(node.a, node.b) < len(levels) and node.shift >= 0 and not (node.negate_a and node.negate_b)
        assert max(levels[node.a], levels[node.b]) < node.level <= graph.depth
        levels.append(node.level)


@pytest.mark.parametrize("name", MATRICES)
def test_adders_of_three_take_one_node_in(name):
    two, three = (adder_graph(MATRICES[name], -128, 127, operands=operands) for operands in (2, 3))
    assert three.adder_bits <= two.adder_bits and three.depth <= two.depth
    if name in ("dense", "sparse"):
        assert three.adder_bits < 0.8 * two.adder_bits
    for node in three.nodes:
        if node.fused:
            continue
        terms = three.terms(node)
        assert len(terms) in (2, 3) and sum(term.negative for term in terms) <= 2
        for term in terms:
            read = three.nodes[term.value - three.inputs] if term.value >= three.inputs else None
            assert read is None or (not read.fused and read.level < node.level)
    assert not any(three.nodes[value - three.inputs].fused for value in used(three.outputs) if value >= three.inputs)


def test_the_same_weights_give_the_same_graph():
    weights = sparse(25, 32, 12)
    assert adder_graph(weights, -128, 127) == adder_graph(weights.copy(), -128, 127)


def test_shares_what_columns_have_in_common():
    weights = sparse(25, 64, 12)
    graph = adder_graph(weights, -128, 127)
    # A tree a column has 11 adders for 12 products, and every product takes about two more.
    assert len(graph.nodes) < 64 * 20
    assert graph.depth <= 8
    # Never more registers than when every adder comes as soon as it can.
    earliest = [0] * graph.inputs
    for node in graph.nodes:
        earliest.append(1 + max(earliest[node.a], earliest[node.b]))
    held = [0] * len(earliest)
    for node, level in zip(graph.nodes, earliest[graph.inputs :], strict=True):
        for operand in (node.a, node.b):
            held[operand] = max(held[operand], level - 1 - earliest[operand])
    for value in used(graph.outputs):
        held[value] = graph.depth - earliest[value]
    bits = [8] * graph.inputs + [node.bits for node in graph.nodes]
    soonest = sum(b * h for b, h in zip(bits, held, strict=True)) + sum(bits[graph.inputs :])
    assert graph.register_bits <= soonest


@pytest.mark.parametrize(
    ("weights", "low", "high", "message"),
    [
        (np.zeros((0, 3), dtype=int), -1, 1, "weights must be integers"),
        (np.zeros(3, dtype=int), -1, 1, "weights must be integers"),
        (np.ones((2, 2)), -1, 1, "weights must be integers"),
        (np.array([[1 << 20]]), -1, 1, "weights must lie within"),
        (np.array([[1]]), 1, 2, "low and high must enclose 0, not 1 and 2"),
        (np.array([[1]]), 0, 0, "low and high must enclose 0, not 0 and 0"),
    ],
)
def test_refuses(weights, low, high, message):
    with pytest.raises(ValueError, match=message):
        adder_graph(weights, low, high)


def test_refuses_adders_of_four():
    with pytest.raises(ValueError, match="operands must be 2 or 3, not 4"):
        adder_graph(np.array([[1]]), -1, 1, operands=4)


def test_shares_among_neighbouring_outputs_alone():
    weights = sparse(25, 20, 12)
    graph = adder_graph(weights, -128, 127, sharing=8)
    x = DRAW.integers(-128, 128, (50, 25))
    assert (graph.evaluate(x) == x @ weights).all()
    # The adders that each output depends on.
    reached: list[set[int]] = []
    for output in graph.outputs:
        ahead, found = [output.value], set()
        while ahead:
            value = ahead.pop()
            if value >= graph.inputs and value not in found:
                found.add(value)
                ahead += [graph.nodes[value - graph.inputs].a, graph.nodes[value - graph.inputs].b]
        reached.append(found)
    groups = [set().union(*reached[first : first + 8]) for first in (0, 8, 16)]
    assert sum(map(len, groups)) == len(set().union(*groups)) == len(graph.nodes)
    assert any(reached[0] & other for other in reached[1:8])
    assert len(graph.nodes) > len(adder_graph(weights, -128, 127).nodes)


def test_refuses_to_share_among_none():
    with pytest.raises(ValueError, match="sharing must be positive, not 0"):
        adder_graph(sparse(5, 5, 2), -128, 127, sharing=0)
