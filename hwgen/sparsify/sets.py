"""Finds the complementary sets of a mask whose projection is not at hand.

Which outputs form a set is a question of colouring with classes of equal size, hard wherever many outputs share few
columns. Two searches follow each other: the packer's, and exchanges of kernels between sets of the right sizes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwgen.packing.strict import strict_sets

KICKS = 100
# Elements of the table of conflicts that all kicks together may walk through.
KICK_WORK = 20_000_000


def find_sets(mask: NDArray[np.bool_], kernels: int) -> NDArray[np.int64] | None:
    """ceil(outputs / kernels) sets without collisions.

    Args:
        mask: bool (outputs, columns), every output with a non-zero.
        kernels: most outputs of a set.

    Returns:
        int64 (outputs,): the set of each output; None where none were found.
    """
    sets = -(-len(mask) // kernels)
    if mask.sum(axis=0).max() > sets:
        return None
    # The packer knows no largest size of a set.
    packed = strict_sets(mask, np.random.default_rng(0), effort=1)
    if packed.max() < sets and np.bincount(packed).max() <= kernels:
        return packed
    return _exchange(mask, sets, kernels, packed)


def are_sets(mask: NDArray[np.bool_], kernels: int, set_of: NDArray[np.integer]) -> bool:
    """Whether these are sets as `find_sets` looks for them."""
    sets = -(-len(mask) // kernels)
    if set_of.min() < 0 or set_of.max() >= sets or np.bincount(set_of).max() > kernels:
        return False
    used = np.zeros((sets, mask.shape[1]), np.int64)
    np.add.at(used, set_of, mask)
    return bool(used.max() <= 1)


def _exchange(mask: NDArray[np.bool_], sets: int, kernels: int, packed: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Exchanges kernels for fewer collisions, from the packer's sets and then from disturbed ones."""
    # numba takes a moment to import.
    from hwgen.sparsify.grouping_kernels import reduce_conflicts

    places = sets * kernels
    # Free places are kernels that collide with none.
    conflict = np.zeros((places, places))
    support = mask.astype(np.float32)
    conflict[: len(mask), : len(mask)] = support @ support.T
    np.fill_diagonal(conflict, 0)
    rng = np.random.default_rng(0)
    best, least = _fit(packed, sets, kernels), np.inf
    for kick in range(max(1, min(KICKS, KICK_WORK // conflict.size))):
        set_of = best.copy()
        if kick:
            colliding = (set_of[:, None] == set_of) & (conflict > 0)
            for kernel in np.flatnonzero(colliding.any(axis=1)):
                other = rng.integers(places)
                set_of[kernel], set_of[other] = set_of[other], set_of[kernel]
        reduce_conflicts(conflict, sets, set_of)
        total = conflict[set_of[:, None] == set_of].sum()
        if not total:
            return set_of[: len(mask)]
        if total <= least:
            best, least = set_of, total
    return None


def _fit(packed: NDArray[np.int64], sets: int, kernels: int) -> NDArray[np.int64]:
    """(sets * kernels,): the packer's sets, where those that are too large or too many give kernels to others."""
    order = np.argsort(packed, kind="stable")
    rank = np.arange(len(packed)) - np.searchsorted(packed[order], packed[order])
    stays = (packed[order] < sets) & (rank < kernels)
    set_of = np.full(sets * kernels, -1)
    set_of[order[stays]] = packed[order[stays]]
    room = kernels - np.bincount(set_of[set_of >= 0], minlength=sets)
    set_of[set_of < 0] = np.repeat(np.arange(sets), room)
    return set_of
