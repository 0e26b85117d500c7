"""Strict complementary sets: output channels of one set never collide, so every column takes one row.

Choosing the fewest sets is colouring the graph of collisions, or covering the graph of compatibility with cliques.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

# An output, its set, and what is left then: waiting outputs, those that fit the set, columns it must cover.
_Move: TypeAlias = tuple[int, int, tuple[int, int, set[int]]]

# Below this share of slots that the best imaginable colouring fills, a set fewer is not worth an exact search.
TIGHT = 0.5
TILE_WORK, TILE_WORK_PER_POSITION = 400_000, 30
COVER_OUTPUTS = 64
COVER_CLIQUES = 3000
COVER_VISITS = 30000
COVER_NODES = 200
RESTARTS = 12
RESTART_OUTPUTS = 256


def strict_sets(mask: NDArray[np.bool_], rng: np.random.Generator, effort: int) -> NDArray[np.int64]:
    """Few sets without collisions.

    Args:
        mask: (outputs, columns), no output without non-zeros.
        rng: source of the restarts.
        effort: restarts and the exact search are skipped at 0.

    Returns:
        int64 (outputs,): the set of each output.
    """
    support = mask.astype(np.float32)
    compatible = support @ support.T == 0
    sizes = support.sum(axis=1)
    fewest = int(mask.sum(axis=0).max(initial=1))
    best = _peel(compatible, sizes)
    outputs = len(mask)
    outputs, columns = mask.shape
    tight = mask.sum() >= TIGHT * fewest * columns
    if not effort or best.max() + 1 == fewest or not compatible.any():
        return best
    if tight:
        tiled = _tile(mask, compatible, fewest, min(TILE_WORK, TILE_WORK_PER_POSITION * mask.size) * effort)
        if tiled is not None:
            return tiled
    if tight and outputs <= COVER_OUTPUTS:
        covered = _cover(compatible, int(best.max()) + 1)
        if covered is not None:
            return covered
    for _ in range(RESTARTS * effort if outputs <= RESTART_OUTPUTS else 0):
        found = _peel(compatible, sizes * rng.uniform(0.7, 1.4, outputs))
        if found.max() < best.max():
            best = found
        if best.max() + 1 == fewest:
            break
    return best


def _peel(compatible: NDArray[np.bool_], weight: NDArray[np.floating]) -> NDArray[np.int64]:
    """Takes one clique after the other: the hardest output first, then those that leave most weight to choose from.

    Sets that training planted are cliques in a sparse graph: the members of a set see each other and few besides, so
    that the weight still compatible tells them apart from chance (recursive largest first, Leighton 1979, on the
    complement).
    """
    graph = compatible.astype(np.float32)
    set_of = np.full(len(graph), -1, np.int64)
    friends = graph.sum(axis=1)
    left = np.ones(len(graph), np.bool_)
    current = 0
    while left.any():
        waiting = np.flatnonzero(left)
        pick = waiting[np.argmin(friends[waiting])]
        members = [pick]
        candidates = compatible[pick] & left
        value = weight[candidates] @ graph[candidates]
        while candidates.any():
            choice = np.flatnonzero(candidates)
            # The output's own weight counts too: it fills the set.
            pick = choice[np.argmax(value[choice] + weight[choice])]
            members.append(pick)
            dropped = candidates & ~compatible[pick]
            candidates &= compatible[pick]
            value = value - weight[dropped] @ graph[dropped]
        set_of[members] = current
        left[members] = False
        friends = friends - graph[members].sum(axis=0)
        current += 1
    return set_of


def _tile(mask: NDArray[np.bool_], compatible: NDArray[np.bool_], sets: int, work: int) -> NDArray[np.int64] | None:
    """So many sets, as many as the fullest column has non-zeros; None where none are found in so many column checks.

    Fills one set after the other. A column that has as many non-zeros left as there are sets left must be covered by
    every one of them: the search always covers the one with the fewest outputs to choose from, and goes back where
    there is none (exact cover, Knuth 2000). The sets of a mask that fills all columns are few among all partitions,
    and this finds them where the graph of collisions alone tells little.
    """
    neighbours = _as_bits(compatible)
    holders = _as_bits(mask.T)
    columns_of = [np.flatnonzero(row).tolist() for row in mask]

    def moves(waiting: int, candidates: int, required: set[int], current: int) -> Iterator[_Move]:
        if not candidates and not required:
            current, candidates = current + 1, waiting
            counts = [(holder & waiting).bit_count() for holder in holders]
            if max(counts) > sets - current:
                return
            required = {column for column, count in enumerate(counts) if count == sets - current}
        if required:
            choice = min((holders[column] & candidates for column in sorted(required)), key=int.bit_count)
        else:
            # Whatever still fits fills the set.
            choice = 1 << max(_bits(candidates), key=lambda output: len(columns_of[output]))
        for output in _bits(choice):
            rest = waiting & ~(1 << output), candidates & neighbours[output]
            yield output, current, (*rest, required.difference(columns_of[output]))

    path: list[tuple[int, int]] = []
    stack = [moves((1 << len(mask)) - 1, 0, set(), -1)]
    while stack and work > 0:
        move = next(stack[-1], None)
        if move is None:
            stack.pop()
            if path:
                path.pop()
            continue
        output, current, state = move
        path.append((output, current))
        if not state[0]:
            set_of = np.zeros(len(mask), np.int64)
            for member, target in path:
                set_of[member] = target
            return set_of
        work -= 1 + len(state[2])
        stack.append(moves(*state, current))
    return None


def _cover(compatible: NDArray[np.bool_], most: int) -> NDArray[np.int64] | None:
    """The fewest sets, by integer programming over all maximal cliques; None where that is too much work."""
    cliques: list[int] = []
    for clique in _maximal_cliques(compatible):
        if clique is None or len(cliques) == COVER_CLIQUES:
            return None
        cliques.append(clique)
    # scipy's optimisers take a moment to import, and most masks do not need them.
    from scipy.optimize import Bounds, LinearConstraint, milp  # type: ignore[import-untyped]

    outputs = len(compatible)
    member = np.array([[clique >> output & 1 for clique in cliques] for output in range(outputs)])
    ones = np.ones(len(cliques))
    result = milp(
        ones,
        constraints=[LinearConstraint(member, lb=1), LinearConstraint(ones, ub=most - 1)],
        integrality=ones,
        bounds=Bounds(0, 1),
        # Nodes rather than seconds, so that the result does not depend on the machine.
        options={"node_limit": COVER_NODES},
    )
    if result.x is None:
        return None
    chosen = np.flatnonzero(result.x > 0.5)
    # An output that several cliques cover stays in the first.
    _, set_of = np.unique(np.argmax(member[:, chosen] > 0, axis=1), return_inverse=True)
    return set_of.astype(np.int64)


def _maximal_cliques(compatible: NDArray[np.bool_]) -> Iterator[int | None]:
    """Maximal cliques as bit masks (Bron and Kerbosch with pivots); None once the search gets too long."""
    neighbours = _as_bits(compatible)
    stack = [(0, (1 << len(neighbours)) - 1, 0)]
    visits = 0
    while stack:
        clique, open_, closed = stack.pop()
        visits += 1
        if visits > COVER_VISITS:
            yield None
            return
        if not open_:
            if not closed:
                yield clique
            continue
        pivot = max(_bits(open_ | closed), key=lambda vertex: (neighbours[vertex] & open_).bit_count())
        for vertex in _bits(open_ & ~neighbours[pivot]):
            stack.append((clique | 1 << vertex, open_ & neighbours[vertex], closed & neighbours[vertex]))
            open_ &= ~(1 << vertex)
            closed |= 1 << vertex


def _as_bits(table: NDArray[np.bool_]) -> list[int]:
    """Each row as an integer whose bit i is the row's element i."""
    packed = np.packbits(table, axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in packed]


def _bits(value: int) -> Iterator[int]:
    while value:
        low = value & -value
        yield low.bit_length() - 1
        value ^= low
