"""From constant weights to adders: what kernels have in common is added up once.

The products with constants, and their sums, are decomposed by da4ml (common subexpressions of the weights' signed
digits, found greedily); here its result becomes integers, proven ranges, and a schedule with few registers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwgen.errors import ToolError, install
from rtl_templates.adder_graph import AdderGraph, Node, Output, Term, inside, passing_bits, range_bits, used

# da4ml calculates in float32, which is exact below.
_LARGEST_WEIGHT = (1 << 20) - 1
_INPUT, _ADD, _SUBTRACT = -1, 0, 1


class _Term(NamedTuple):
    """±value * 2^exponent."""

    value: int
    exponent: int
    negative: bool


def adder_graph(
    weights: NDArray[np.integer], low: int, high: int, *, operands: int = 2, sharing: int | None = None
) -> AdderGraph:
    """The graph that multiplies a vector by `weights`; the same arguments always give the same graph.

    Args:
        weights: (inputs, outputs).
        low, high: of every input, low <= 0 <= high.
        operands: of an adder; 3 for FPGAs where an adder of three is no larger than one of two.
        sharing: neighbouring outputs that may have adders in common, None for all. Eight of 64 take an eighth more adders
            than all, and stay apart from the others on the chip.

    Raises:
        ValueError: an argument is out of range.
        ToolError: da4ml is missing, or what it found is not the product.
    """
    weights = np.asarray(weights)
    if weights.ndim != 2 or not weights.size or weights.dtype.kind not in "iu":
        raise ValueError(f"weights must be integers (inputs, outputs), not {weights.dtype} {weights.shape!r}")
    if np.abs(weights.astype(np.int64)).max() > _LARGEST_WEIGHT:
        raise ValueError(f"weights must lie within ±{_LARGEST_WEIGHT}, not {np.abs(weights.astype(np.int64)).max()}")
    if operands not in (2, 3):
        raise ValueError(f"operands must be 2 or 3, not {operands!r}")
    if not low <= 0 <= high or low == high:
        raise ValueError(f"low and high must enclose 0, not {low!r} and {high!r}")
    if sharing is not None and sharing < 1:
        raise ValueError(f"sharing must be positive, not {sharing!r}")
    builder = _Builder(len(weights), low, high)
    outputs: tuple[Output, ...] = ()
    together = min(sharing or weights.shape[1], weights.shape[1])
    for first in range(0, weights.shape[1], together):
        outputs += builder.outputs(_decomposed(weights[:, first : first + together], low, high))
    fused = _fused(builder, outputs) if operands == 3 else frozenset()
    graph = AdderGraph(len(weights), low, high, _scheduled(builder, outputs, fused), outputs)
    # All operations are linear: equal on the unit vectors is equal on everything.
    if not (graph.evaluate(np.eye(len(weights), dtype=np.int64)) == weights).all():
        raise ToolError("da4ml returned a graph that is not the product with the weights")
    return graph


def _decomposed(weights: NDArray[np.integer], low: int, high: int):
    try:
        from da4ml.cmvm import solve
    except ImportError as error:
        raise ToolError(f"unrolling a layer into adders needs da4ml: {install('sim')}") from error
    inputs = len(weights)
    return solve(
        np.ascontiguousarray(weights, dtype=np.float32),
        qintervals=[(float(low), float(high), 1.0)] * inputs,
        latencies=[0.0] * inputs,
    )


class _Builder:
    """Collects adders of integers; each knows its coefficients, hence its exact range."""

    def __init__(self, inputs: int, low: int, high: int):
        self.inputs, self.low, self.high = inputs, low, high
        self.coefficients = list(np.eye(inputs, dtype=np.int64))
        self.operands: list[tuple[int, int, int, bool, bool]] = []
        self._known: dict[tuple[int, int, int, bool, bool], int] = {}

    def range_of(self, coefficients: NDArray[np.int64]) -> tuple[int, int]:
        """The least and the largest value of a weighted sum of the inputs."""
        positive, negative = int(coefficients.clip(0).sum()), int(coefficients.clip(max=0).sum())
        return positive * self.low + negative * self.high, positive * self.high + negative * self.low

    def outputs(self, pipeline) -> tuple[Output, ...]:
        """All stages of da4ml's solution, each fed by the one before; shares no adders with the solutions before."""
        self._known.clear()
        terms: list[_Term | None] = [_Term(place, 0, False) for place in range(self.inputs)]
        for stage in pipeline.solutions:
            terms = self._stage(stage, terms)
        return tuple(self._output(term) for term in terms)

    def _stage(self, stage, terms: list[_Term | None]) -> list[_Term | None]:
        found: list[_Term | None] = []
        for operation in stage.ops:
            if operation.opcode == _INPUT:
                term = terms[operation.id0]
                found.append(term and _scaled(term, stage.inp_shifts[operation.id0], False))
            elif operation.opcode in (_ADD, _SUBTRACT):
                a, b = found[operation.id0], found[operation.id1]
                if a is None or b is None:
                    raise ToolError("da4ml adds an input that it also calls zero")
                found.append(self._sum(a, _scaled(b, operation.data, operation.opcode == _SUBTRACT)))
            else:
                raise ToolError(f"da4ml uses operation {operation.opcode}, which is not an adder")
        result: list[_Term | None] = []
        for index, shift, negative in zip(stage.out_idxs, stage.out_shifts, stage.out_negs, strict=True):
            term = found[index] if index >= 0 else None
            result.append(term and _scaled(term, shift, negative))
        return result

    def _sum(self, a: _Term, b: _Term) -> _Term:
        # Without fractions: the operand with the lower exponent is the one that is not shifted.
        a, b = (a, b) if a.exponent <= b.exponent else (b, a)
        negative = a.negative and b.negative
        negate_a, negate_b = (a.negative, b.negative) if not negative else (False, False)
        key = (a.value, b.value, b.exponent - a.exponent, negate_a, negate_b)
        return _Term(self._node(key), a.exponent, negative)

    def _node(self, key: tuple[int, int, int, bool, bool]) -> int:
        if key not in self._known:
            a, b, shift, negate_a, negate_b = key
            left, right = self.coefficients[a], self.coefficients[b] << shift
            self._known[key] = len(self.coefficients)
            self.coefficients.append((-left if negate_a else left) + (-right if negate_b else right))
            self.operands.append(key)
        return self._known[key]

    def _output(self, term: _Term | None) -> Output:
        if term is None:
            return Output(None, 0, 0, 0)
        value = term.value
        if term.negative:
            # The negative of a value is the value less its double: an adder like any other.
            value = self._node((value, value, 1, False, True))
        column = self.coefficients[value]
        column = column << term.exponent if term.exponent >= 0 else column >> -term.exponent
        return Output(value, term.exponent, *self.range_of(column))


def _scaled(term: _Term, exponent: int, negate: bool) -> _Term:
    return _Term(term.value, term.exponent + exponent, term.negative != negate)


def _fused(builder: _Builder, outputs: tuple[Output, ...]) -> frozenset[int]:
    """The nodes (by number) that become part of the adders that read them, so that the fewest bits are added.

    An adder of three takes in one node at most, and is then no part of another: an integer program.
    """
    inputs, count = builder.inputs, len(builder.operands)
    if not count:
        return frozenset()
    bits = [range_bits(*builder.range_of(column)) for column in builder.coefficients[inputs:]]
    terms = [(Term(a, 0, negate_a), Term(b, shift, negate_b)) for a, b, shift, negate_a, negate_b in builder.operands]
    saved = [float(bits[node] - passing_bits(terms[node])) for node in range(count)]
    shown = {value - inputs for value in used(outputs)}
    rows, columns = list(range(count)), list(range(count))
    for node, (first, second) in enumerate(terms):
        for taken, other in ((first, second), (second, first)):
            child = taken.value - inputs
            if child < 0:
                continue
            if first.value == second.value:
                shown.add(child)
                continue
            rows.append(node)
            columns.append(child)
            # Fewer bits may pass by the wider adder.
            three = [other, *(inside(taken, inner) for inner in terms[child])]
            saved[child] -= passing_bits((first, second)) - passing_bits(three)

    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    free = np.array([node not in shown for node in range(count)], dtype=float)
    choice = coo_array((np.ones(len(rows)), (rows, columns)), shape=(count, count)).tocsr()
    found = milp(
        -np.array(saved), constraints=LinearConstraint(choice, ub=1), bounds=Bounds(0, free), integrality=np.ones(count)
    )
    if found.x is None:
        raise ToolError(f"the adders of three could not be chosen: {found.message}")
    return frozenset(np.flatnonzero(np.rint(found.x)).tolist())


def _scheduled(builder: _Builder, outputs: tuple[Output, ...], fused: frozenset[int]) -> tuple[Node, ...]:
    """The nodes with levels: as few levels as there are adders in a row, and the fewest bits of registers for that.

    A value is held from its level to the one before its last reader's. The least bits are a linear program whose
    constraints are differences of two levels, so that its vertices are whole numbers.
    """
    count, inputs = len(builder.operands), builder.inputs
    if not count:
        return ()
    ranges = [builder.range_of(column) for column in builder.coefficients]
    earliest = [0] * inputs
    for node, (a, b, *_) in enumerate(builder.operands):
        earliest.append(max(earliest[a], earliest[b]) + (node not in fused))
    depth = max(earliest)

    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    # Variables: the level of each node, then the last level at which each value is read. Rows: left - right <= limit.
    differences: list[tuple[int, int, int]] = []
    last = count
    for node, (a, b, *_) in enumerate(builder.operands):
        differences.append((node, last + inputs + node, 0))
        if node in fused:
            continue
        for operand in (a, b):
            inner = builder.operands[operand - inputs][:2] if operand - inputs in fused else (operand,)
            for value in inner:
                differences.append((node, last + value, 1))
                if value >= inputs:
                    differences.append((value - inputs, node, -1))
    bits = np.array([range_bits(*pair) for pair in ranges], dtype=float)
    bits[[inputs + node for node in fused]] = 0
    lower = np.zeros(count + len(bits))
    lower[:count] = 1
    for value in used(outputs):
        lower[last + value] = depth
    row = np.arange(len(differences))
    matrix = coo_array(
        (
            np.repeat([1.0, -1.0], len(row)),
            (np.tile(row, 2), [pair[0] for pair in differences] + [pair[1] for pair in differences]),
        ),
        shape=(len(row), len(lower)),
    ).tocsr()
    cost = np.concatenate([-bits[inputs:], bits])
    limits = [float(limit) for *_, limit in differences]
    bounds = np.stack([lower, np.full(len(lower), depth)], axis=1)
    solution = linprog(cost, A_ub=matrix, b_ub=limits, bounds=bounds, method="highs-ds")
    if not solution.success:
        raise ToolError(f"the adders could not be scheduled: {solution.message}")
    levels = np.rint(solution.x[:count]).astype(int).tolist()
    return tuple(
        Node(*operands, 0 if number in fused else level, *span, fused=number in fused)
        for number, (operands, level, span) in enumerate(zip(builder.operands, levels, ranges[inputs:], strict=True))
    )
