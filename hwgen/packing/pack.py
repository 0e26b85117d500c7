"""Chooses the complementary sets of a mask, a layer and a network.

A multiplier serves a set: it takes one slot of every row. So `rows` is the time of a walk over all columns, `sets` is
the area, and slots = rows * sets is their product. Slots alone cannot be the measure: one single set has no hole and no
parallelism. Among numbers of sets we take the least rows * slots (area * time^2), which trades a little idle hardware
for a lot of speed, and which a mask trained with the constraint meets exactly at its own sets. Where the number of
multipliers is known, time is rows * ceil(sets / multipliers), and less time wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hwgen.errors import DataError, ModelError
from hwgen.format.network import Conv2d, IntegerNetwork, KWinners, Linear, Requantise
from hwgen.format.packed import PackedNetwork
from hwgen.format.sets import Packing, expand, lay_out
from hwgen.packing.search import Sets
from hwgen.packing.shared import first_alike, shares_columns
from hwgen.packing.strict import strict_sets

Objective: TypeAlias = Literal["slots", "uniform"]

# One row a column is worth this much more slots: it needs no row counter and has the same timing for every winner.
STRICT_BONUS = 1.25
CROWDING = 0.05
SEARCHED = 3
STEPS_PER_OUTPUT = 100
MAX_STEPS = 40000
# Temperatures, in units of a row and of the square root of an output's non-zeros; found by experiment.
WARM, COLD = 0.3, 0.03


@dataclass(frozen=True, eq=False)
class Assignment:
    """Where each output channel goes.

    Attributes:
        set_of, kernel_of: int32 (outputs,): set and kernel ID.
        sets: number of sets.
        rows: rows of all columns together.
        rows_max: most rows of one column.
        columns_used: columns with a non-zero.
    """

    set_of: NDArray[np.int32]
    kernel_of: NDArray[np.int32]
    sets: int
    rows: int
    rows_max: int
    columns_used: int

    @property
    def slots(self) -> int:
        return self.sets * self.rows

    def time(self, objective: Objective) -> int:
        """Rows walked for all columns, each as long as the longest if `objective` is "uniform"."""
        return self.rows if objective == "slots" else self.rows_max * self.columns_used


def pack_network(
    network: IntegerNetwork,
    *,
    objective: Objective | None = None,
    multipliers: int | None = None,
    seed: int = 0,
    effort: int = 1,
) -> PackedNetwork:
    """Chooses the sets of every Linear and Conv2d.

    Args:
        network: the integer network.
        objective: "uniform" where all columns take as long as the longest (an engine that walks lists of winners),
            "slots" where each takes its own rows. None decides layer by layer: "uniform" behind a k-WTA.
        multipliers: how many a layer can have; None leaves the choice to the measure of this module.
        seed: of the search; equal arguments give equal results.
        effort: 0 is greedy, 1 is good, more searches longer.

    Raises:
        ModelError: if a layer's weights, mask, bias or shape are not as `IntegerNetwork` defines them.
    """
    packings = {}
    behind_winners = False
    for layer in network.layers:
        if isinstance(layer, Linear | Conv2d):
            own = objective or ("uniform" if behind_winners else "slots")
            packings[layer.name] = pack_layer(layer, objective=own, multipliers=multipliers, seed=seed, effort=effort)
        if isinstance(layer, Linear | Conv2d | Requantise):
            behind_winners = False
        elif isinstance(layer, KWinners):
            behind_winners = True
    return PackedNetwork(network, packings)


def pack_layer(
    layer: Linear | Conv2d,
    *,
    objective: Objective = "slots",
    multipliers: int | None = None,
    seed: int = 0,
    effort: int = 1,
) -> Packing:
    """Chooses the sets of one layer and lays its weights out in them; arguments as for `pack_network`.

    Raises:
        ModelError: if the layer's arrays are not as `Linear` and `Conv2d` define them.
    """
    axes = 2 if isinstance(layer, Linear) else 4
    if layer.weight.ndim != axes or not layer.weight.size or layer.mask.shape != layer.weight.shape:
        raise ModelError(
            f"layer {layer.name!r}: weight and mask must have one shape of {axes} axes, not {layer.weight.shape} "
            f"and {layer.mask.shape}"
        )
    if isinstance(layer, Conv2d) and layer.weight.shape[0] % layer.groups:
        raise ModelError(
            f"layer {layer.name!r}: {layer.weight.shape[0]} output channels do not divide into {layer.groups} groups"
        )
    weight, mask = expand(layer)
    place = pack_mask(mask, objective=objective, multipliers=multipliers, seed=seed, effort=effort)
    try:
        return lay_out(weight, mask, place.set_of, place.kernel_of)
    except DataError as error:
        raise ModelError(f"layer {layer.name!r}: {error}") from None


def pack_mask(
    mask: NDArray[np.bool_],
    *,
    objective: Objective = "slots",
    multipliers: int | None = None,
    seed: int = 0,
    effort: int = 1,
) -> Assignment:
    """Chooses the sets of a mask; arguments as for `pack_network`.

    Args:
        mask: bool (outputs, columns), both at least 1.

    Raises:
        DataError: if the mask is not such an array or `multipliers` is not at least 1.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_ or not mask.size:
        raise DataError(f"a mask must be bool (outputs, columns) and not empty, not {mask.dtype} {mask.shape}")
    if multipliers is not None and multipliers < 1:
        raise DataError(f"multipliers must be at least 1, not {multipliers}")
    outputs = np.flatnonzero(mask.any(axis=1))
    if not len(outputs):
        return _place(np.zeros(len(mask), np.int64), mask)
    used = mask[np.ix_(outputs, np.flatnonzero(mask.any(axis=0)))]
    chosen = _Search(used, objective, multipliers, np.random.default_rng(seed), effort).run()
    set_of = np.full(len(mask), -1)
    set_of[outputs] = chosen
    _place_empty(set_of)
    return _place(set_of, mask)


class _Search:
    """The search over numbers of sets, for a mask without empty outputs and columns."""

    def __init__(
        self,
        mask: NDArray[np.bool_],
        objective: Objective,
        multipliers: int | None,
        rng: np.random.Generator,
        effort: int,
    ) -> None:
        self.mask = mask
        self.objective = objective
        self.multipliers = multipliers
        self.rng = rng
        self.effort = effort
        self.nonzeros = int(mask.sum())
        self.per_column = mask.sum(axis=0)
        heights = np.arange(len(mask) + 2, dtype=np.float64)
        # Rows lead and crowding only breaks ties; where the longest column counts, crowding alone flattens it.
        self.crowding, self.row_cost = (CROWDING * heights**2, 1.0) if objective == "slots" else (heights**6, 0.0)

    def run(self) -> NDArray[np.int64]:
        """(outputs,): the set of each output."""
        set_of = strict_sets(self.mask, self.rng, self.effort)
        strict = self._sets(int(set_of.max()) + 1, set_of)
        if self._good_enough(strict):
            best = strict
        elif self.objective == "slots" and shares_columns(self.mask):
            # Slots do not tell the time here: a fold of outputs with the same columns walks no others.
            return np.arange(len(self.mask))
        else:
            best = self._with_collisions(strict)
        best.even_out()
        return best.set_of

    def _good_enough(self, strict: Sets) -> bool:
        if self.multipliers is None:
            return strict.slots <= STRICT_BONUS * self.nonzeros
        folds = -(-strict.sets // self.multipliers)
        return strict.rows * folds <= max(strict.rows, -(-self.nonzeros // self.multipliers))

    def _with_collisions(self, strict: Sets) -> Sets:
        candidates = [strict]
        bound = self._score_of(strict)
        for count in self._counts(strict.sets - 1):
            least = -(-self.per_column // count)
            if self._score(count, int(least.sum()), int(least.max())) < bound:
                candidates.append(self._sets(count))
        candidates.sort(key=self._score_of)
        steps = min(STEPS_PER_OUTPUT * len(self.mask), MAX_STEPS) * self.effort
        # Moves cost about the square root of an output's non-zeros, times the steepness of what they pay.
        scale = float(np.sqrt(self.nonzeros / len(self.mask))) * (1.0 if self.row_cost else 8.0)
        searched = [sets for sets in candidates if 1 < sets.sets < strict.sets][:SEARCHED]
        if self.effort:
            for sets in searched:
                sets.anneal(self.rng, steps, WARM * scale, COLD * scale)
        best = min(candidates, key=self._score_of)
        if self.multipliers is None and strict.slots <= STRICT_BONUS * best.slots:
            return strict
        return best

    def _counts(self, most: int) -> list[int]:
        """Numbers of sets to try, up to `most`: all small ones, then in steps of a quarter, and the fullest column's."""
        counts = set(range(1, min(most, 8) + 1))
        counts |= {int(self.per_column.max())} if self.per_column.max() <= most else set()
        count = 10
        while count <= most:
            counts.add(count)
            count += count // 4
        if self.multipliers is not None:
            counts |= set(range(self.multipliers, most + 1, self.multipliers))
        return sorted(counts)

    def _score(self, sets: int, rows: int, rows_max: int) -> tuple[int, ...]:
        time = rows if self.objective == "slots" else rows_max * len(self.per_column)
        if self.multipliers is not None:
            return time * -(-sets // self.multipliers), sets * rows, sets
        return sets * time * time, sets * rows, sets

    def _score_of(self, sets: Sets) -> tuple[int, ...]:
        return self._score(sets.sets, sets.rows, sets.rows_max)

    def _sets(self, count: int, set_of: NDArray[np.int64] | None = None) -> Sets:
        return Sets(self.mask, count, set_of, self.crowding, self.row_cost)


def _place_empty(set_of: NDArray[np.int64]) -> None:
    """Outputs without non-zeros (-1) go where there are fewest."""
    sizes = np.bincount(set_of[set_of >= 0])
    for output in np.flatnonzero(set_of < 0):
        target = int(np.argmin(sizes))
        set_of[output] = target
        sizes[target] += 1


def _place(set_of: NDArray[np.int64], mask: NDArray[np.bool_]) -> Assignment:
    """Numbers sets by their first output and kernels by output, so that equal partitions look equal.

    Outputs without non-zeros come last: in sets that combine no others, every weight is then of kernel 0. Such sets lie
    beside those with the same columns.
    """
    used = mask.any(axis=1)
    outputs = np.argsort(~used, kind="stable")
    _, first, inverse = np.unique(set_of[outputs], return_index=True, return_inverse=True)
    order = np.argsort(first)
    if len(first) == np.count_nonzero(used):
        order = np.lexsort((first, first_alike(mask)[outputs[first]]))
    number = np.argsort(order)[inverse]
    kernel_of, target_of = np.zeros((2, len(set_of)), np.int64)
    height = np.zeros((len(first), mask.shape[1]), np.int64)
    sizes = np.zeros(len(first), np.int64)
    for output, target in zip(outputs, number, strict=True):
        target_of[output] = target
        kernel_of[output] = sizes[target]
        sizes[target] += 1
        height[target] += mask[output]
    rows = height.max(axis=0)
    return Assignment(
        set_of=target_of.astype(np.int32),
        kernel_of=kernel_of.astype(np.int32),
        sets=len(first),
        rows=int(rows.sum()),
        rows_max=int(rows.max()),
        columns_used=int(np.count_nonzero(rows)),
    )
