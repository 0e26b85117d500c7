"""Which kernels form a complementary set, and which columns each of them gets.

For given sets the columns are a transportation problem, solved exactly. The sets are found by exchanging kernels,
twice: first so that those of one set want different columns, by a measure for pairs, which takes a moment even for
thousands of kernels; then so that the kept score itself grows. The dual prices of a set bound what any exchange could
bring: few exchanges need to be tried, and where none is left that could pay, the search ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgen.sparsify.grouping_kernels import bound_replacements, conflicts, reduce_conflicts, update_gains
from hwgen.sparsify.transport import transport

# A kernel competes for more columns than it gets; found by experiment.
WANTED = 2
# Work of the search, and of what it does after the first time that no exchange pays; in inner loops, some 1e9 a second.
WORK, KICK_WORK = 2_000_000_000, 100_000_000
# Inner loops of one exact solution, for each weight; measured.
SOLUTION_WORK = 30
KICKS = 10
# Kernels searched at once: the memory grows with their square.
MOST_KERNELS = 2048


def complementary_projection(
    score: NDArray[np.float64], nonzeros: int, kernels: int, thorough: bool = True
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """A mask of complementary sets that keeps as much of the score as the search finds.

    Args:
        score: (outputs, columns).
        nonzeros: of each output, at least 1; nonzeros * kernels <= columns.
        kernels: most outputs of a set. There are as few sets as that allows.
        thorough: False leaves out the second search, and so nearly all of the time.

    Returns:
        mask: bool (outputs, columns).
        set_of: int64 (outputs,). Equal arguments give equal results.
    """
    portion = max(kernels, MOST_KERNELS // kernels * kernels)
    mask = np.zeros(score.shape, np.bool_)
    set_of = np.zeros(len(score), np.int64)
    for first in range(0, len(score), portion):
        part = slice(first, first + portion)
        mask[part], set_of[part] = _project_portion(score[part], nonzeros, kernels, thorough)
        set_of[part] += first // kernels
    return mask, set_of


def columns_of_sets(score: NDArray[np.float64], nonzeros: int, set_of: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The mask that keeps the greatest score of all with these sets; bool (outputs, columns).

    Args:
        score: (outputs, columns).
        nonzeros: of each output; those of a set together at most as many as there are columns.
        set_of: (outputs,): the set of each output.
    """
    mask = np.zeros(score.shape, np.bool_)
    quota = np.full(len(score), nonzeros)
    prices = _top(score, quota)
    for target in np.unique(set_of):
        members = np.flatnonzero(set_of == target)
        mask[members], _ = _share_columns(score[members], quota[members], prices[members])
    return mask


def _project_portion(
    score: NDArray[np.float64], nonzeros: int, kernels: int, thorough: bool
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    outputs, columns = score.shape
    sets = -(-outputs // kernels)
    # Places that stay free are kernels which take no columns, so that a move is an exchange too.
    padded = np.vstack([score, np.zeros((sets * kernels - outputs, columns))])
    quota = np.where(np.arange(len(padded)) < outputs, nonzeros, 0)
    set_of = np.arange(len(padded)) // kernels
    reduce_conflicts(conflicts(_demand(padded, quota)), sets, set_of)
    groups = Groups(padded, quota, set_of)
    if thorough and sets > 1:
        groups.improve()
    return groups.mask[:outputs], groups.set_of[:outputs]


def _demand(score: NDArray[np.float64], quota: NDArray[np.int64]) -> NDArray[np.float64]:
    """(columns, kernels): by how much each kernel wants a column more than the best of those it can do without."""
    spare = _top(score, WANTED * quota)
    return np.ascontiguousarray(np.where(quota[:, None] > 0, np.maximum(score - spare[:, None], 0), 0).T)


def _top(score: NDArray[np.float64], rank: NDArray[np.int64]) -> NDArray[np.float64]:
    """(kernels,): the score of each kernel with so many others above, the least where there are not as many."""
    ordered = -np.sort(-score, axis=1)
    return np.take_along_axis(ordered, np.minimum(rank, score.shape[1] - 1)[:, None], axis=1)[:, 0]


def _share_columns(
    score: NDArray[np.float64], quota: NDArray[np.int64], prices: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """The exact assignment of one set's columns to its members.

    Args:
        score: (members, columns).
        quota: (members,): columns of each.
        prices: (members,): guesses of the dual prices, such as those of a similar set.

    Returns:
        mask: bool (members, columns).
        prices: (members,): dual prices, where a column for nobody costs 0.
    """
    columns = score.shape[1]
    # Columns that no member gets go to nobody.
    spare = columns - quota.sum()
    offers = np.vstack([score, np.zeros(columns)])
    # Nobody's price is the one at which as many columns as must stay free are worth less to every member.
    surplus = (score - prices[:, None]).max(axis=0)
    place = min(spare, columns - 1)
    free = -np.partition(surplus, place)[place]
    mask, duals = transport(offers, np.append(quota, spare), prices=np.append(prices, free))
    return mask[:-1], duals[:-1] - duals[-1]


@dataclass(frozen=True, eq=False)
class _Solution:
    """The exact assignment of one set: its members, their rows of `Groups.mask` and `price`, and the kept score."""

    members: NDArray[np.int64]
    mask: NDArray[np.bool_]
    price: NDArray[np.float64]
    value: float


class Groups:
    """Kernels in complementary sets, each set with the columns that keep most of its score.

    Attributes:
        set_of: (kernels,).
        mask: bool (kernels, columns).
        price: (kernels,): dual price of a column for each kernel, where a column for nobody costs 0.
        value: (sets,): kept score.
        bound: (kernels, kernels): bound[a, b] is what b in the place of a would add to the dual objective of a's set,
            or something between that and what it would truly add; bound[a, a] is what a does add.
        gain: (kernels, kernels): what an exchange of two kernels can bring, which by weak duality is no more than
            bound[a, b] + bound[b, a] - bound[a, a] - bound[b, b]; -inf within a set.
    """

    def __init__(self, score: NDArray[np.float64], quota: NDArray[np.int64], set_of: NDArray[np.int64]) -> None:
        self.score = score
        self.quota = quota
        self.set_of = set_of
        self.mask = np.zeros(score.shape, np.bool_)
        self.price = _top(score, quota)
        self.value = np.zeros(int(set_of.max()) + 1)
        self.bound = np.zeros((len(score), len(score)))
        self.gain = np.full(self.bound.shape, -np.inf)
        for target in range(len(self.value)):
            self._settle(target, self._solve(target))

    def improve(self) -> None:
        """Exchanges kernels for as long as it pays, then from disturbed sets anew; keeps the best."""
        work = WORK - 2 * len(self.value) * self.score.size
        if work <= 0:
            return
        for target in range(len(self.value)):
            self._bound(target)
        work = min(self._descend(work), KICK_WORK)
        rng = np.random.default_rng(0)
        for _ in range(KICKS):
            # A kick resettles every set, as some half as many exchanges do.
            work -= len(self.value) * self._work_of_exchange // 2
            if work <= 0:
                return
            before = [array.copy() for array in self._state]
            self._kick(rng)
            work = self._descend(work)
            if self.value.sum() <= before[0].sum():
                for array, former in zip(self._state, before, strict=True):
                    array[:] = former

    @property
    def _state(self) -> tuple[NDArray, ...]:
        return self.value, self.set_of, self.mask, self.price, self.bound, self.gain

    @property
    def _work_of_exchange(self) -> int:
        kernels, columns = self.score.shape
        return 2 * columns * (kernels + SOLUTION_WORK * (kernels // len(self.value)))

    def _descend(self, work: int) -> int:
        """Exchanges kernels until none pays or the work is spent; what is left of it."""
        tolerance = 1e-9 * np.abs(self.value).sum()
        while work > 0:
            kernel, other = divmod(int(self.gain.argmax()), len(self.gain))
            if self.gain[kernel, other] <= tolerance:
                break
            work -= self._work_of_exchange
            self._try(kernel, other, tolerance)
        return work

    def _try(self, kernel: int, other: int, tolerance: float) -> None:
        """Exchanges two kernels if that pays; else their bounds become what the exchange would truly bring."""
        sets = int(self.set_of[kernel]), int(self.set_of[other])
        self.set_of[kernel], self.set_of[other] = sets[1], sets[0]
        solutions = [self._solve(target) for target in sets]
        gains = [solution.value - self.value[target] for solution, target in zip(solutions, sets, strict=True)]
        if sum(gains) > tolerance:
            for target, solution in zip(sets, solutions, strict=True):
                self._settle(target, solution)
                self._bound(target)
            return
        self.set_of[kernel], self.set_of[other] = sets
        self.bound[kernel, other] = self.bound[kernel, kernel] + gains[0]
        self.bound[other, kernel] = self.bound[other, other] + gains[1]
        self.gain[kernel, other] = self.gain[other, kernel] = sum(gains)

    def _kick(self, rng: np.random.Generator) -> None:
        """Exchanges a few kernels at random."""
        moved = rng.permutation(len(self.set_of))[: max(3, len(self.set_of) // 8)]
        self.set_of[moved] = self.set_of[np.roll(moved, 1)]
        for target in range(len(self.value)):
            self._settle(target, self._solve(target))
            self._bound(target)

    def _solve(self, target: int) -> _Solution:
        """The exact assignment of a set."""
        members = np.flatnonzero(self.set_of == target)
        score, quota = self.score[members], self.quota[members]
        mask, prices = _share_columns(score, quota, self.price[members])
        price = np.where(quota > 0, prices, 0.0)
        return _Solution(members, mask, price, float(score[mask].sum()))

    def _settle(self, target: int, solution: _Solution) -> None:
        self.mask[solution.members] = solution.mask
        self.price[solution.members] = solution.price
        self.value[target] = solution.value

    def _bound(self, target: int) -> None:
        """Bounds for a set that was settled anew."""
        members = np.flatnonzero(self.set_of == target)
        mask = self.mask[members]
        owner = np.where(mask.any(axis=0), mask.argmax(axis=0), -1)
        nobody = np.zeros((2, mask.shape[1]))
        offers = np.sort(np.vstack([self.score[members] - self.price[members, None], nobody]), axis=0)
        rows = members, owner, offers[-1], offers[-2]
        bound_replacements(*rows, self.score, self.price, self.quota, self.bound)  # type: ignore[call-arg]
        update_gains(members, self.set_of, self.bound, self.gain)  # type: ignore[call-arg]
