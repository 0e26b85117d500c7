"""The patterns once more, as slow and as plain as can be: what the tests compare with."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product

import numpy as np
from scipy.optimize import linear_sum_assignment


def all_masks(outputs: int, inputs: int) -> Iterator[np.ndarray]:
    for bits in product([False, True], repeat=outputs * inputs):
        yield np.array(bits, np.bool_).reshape(outputs, inputs)


def parts_of(size: int, parts: int) -> list[list[int]]:
    return [list(part) for part in np.array_split(np.arange(size), parts)]


def is_block(mask: np.ndarray, outputs: int, inputs: int) -> bool:
    return all(
        len(set(mask[top : top + outputs, left : left + inputs].ravel().tolist())) == 1
        for top in range(0, len(mask), outputs)
        for left in range(0, mask.shape[1], inputs)
    )


def is_n_of_m(mask: np.ndarray, n: int, m: int) -> bool:
    return all(sum(row[left : left + m]) <= n for row in mask.tolist() for left in range(0, len(row), m))


def is_partitioned(mask: np.ndarray, inputs: int | None, outputs: int | None) -> bool:
    counts = []
    if inputs:
        counts.append({sum(row[i] for i in part) for row in mask.tolist() for part in parts_of(len(row), inputs)})
    if outputs:
        columns = mask.T.tolist()
        counts.append({sum(column[o] for o in part) for column in columns for part in parts_of(len(mask), outputs)})
    return all(len(found) == 1 for found in counts)


def groupings(members: list[int], sets: int, kernels: int) -> Iterator[list[tuple[int, ...]]]:
    """All ways to put the members into at most so many sets of at most so many kernels."""
    if not members:
        yield []
    elif sets * kernels >= len(members):
        first, *others = members
        for size in range(min(kernels, len(members))):
            for chosen in combinations(others, size):
                left = [member for member in others if member not in chosen]
                for rest in groupings(left, sets - 1, kernels):
                    yield [(first, *chosen), *rest]


def is_complementary(mask: np.ndarray, kernels: int) -> bool:
    if any(row.sum() != mask.shape[1] // kernels for row in mask):
        return False
    sets = -(-len(mask) // kernels)
    return any(
        all(mask[list(members)].sum(axis=0).max() <= 1 for members in grouping)
        for grouping in groupings(list(range(len(mask))), sets, kernels)
    )


def best_of_set(score: np.ndarray, nonzeros: int) -> float:
    """The score that kernels of one set can keep."""
    places = np.repeat(score, nonzeros, axis=0)
    return float(places[linear_sum_assignment(places, maximize=True)].sum())


def best_complementary(score: np.ndarray, kernels: int) -> float:
    """The score that the best sets keep."""
    nonzeros, values = score.shape[1] // kernels, {}
    best = -np.inf
    for grouping in groupings(list(range(len(score))), -(-len(score) // kernels), kernels):
        for members in grouping:
            if members not in values:
                values[members] = best_of_set(score[list(members)], nonzeros)
        best = max(best, sum(values[members] for members in grouping))
    return best


def is_tile_wise(mask: np.ndarray, tile: int) -> bool:
    rows = [row for row in mask.tolist() if any(row)]
    return all(
        rows[member] == rows[head]
        for head in range(0, len(rows), tile)
        for member in range(head, min(head + tile, len(rows)))
    )


def fewest_singles(mask: np.ndarray, tile: int) -> int:
    """The fewest elements to take away for a tile-wise mask."""
    positions = np.argwhere(mask)
    for count in range(len(positions) + 1):
        for taken in combinations(positions, count):
            rest = mask.copy()
            for output, column in taken:
                rest[output, column] = False
            if is_tile_wise(rest, tile):
                return count
    raise AssertionError("an empty mask is tile-wise")
