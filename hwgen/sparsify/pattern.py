"""What every pattern of sparsity can do: check a mask, make one from a score, and say what it promises the packer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import floor
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgen.errors import DataError, InputError


@dataclass(frozen=True)
class Guarantee:
    """What all legal masks of one shape and sparsity have in common; upper bounds all.

    Attributes:
        sets: so many complementary sets hold all outputs, with one slot of each set a column at most.
        slots: sets * inputs, the slots of the augmented weight tensor.
        nonzeros_per_output: most non-zeros of an output.
        nonzeros_per_input: most non-zeros of an input.
        shared: non-zeros that share one index, since they stand or fall together; 1 where none do. Blocks at the edge
            of the matrix may have fewer.
        singles: non-zeros beside them that need an index of their own.
    """

    sets: int
    slots: int
    nonzeros_per_output: int
    nonzeros_per_input: int
    shared: int = 1
    singles: int = 0


class Pattern(ABC):
    """A rule for the positions of a weight's non-zeros.

    Weights, scores and masks are numpy arrays or torch tensors whose first dimension is the outputs; all others are
    flattened in torch's order, so that the inputs of a convolution are (input channel, kernel y, kernel x). Sparsity is
    the share of zeros, 0 .. 1.
    """

    @abstractmethod
    def check(self, mask: Any) -> bool:
        """Whether a bool mask (outputs, ...) keeps to the pattern.

        Raises:
            DataError: not a bool array of two dimensions or more, or empty.
            InputError: the pattern does not fit the shape.
        """

    @abstractmethod
    def project(self, score: Any, sparsity: float | None = None) -> NDArray[np.bool_]:
        """The legal mask that keeps the greatest sum of scores, as far as the pattern's own text does not limit that.

        Args:
            score: (outputs, ...), how much each weight matters; any finite numbers. Of equal ones the first is kept.
            sparsity: of the mask, rounded to the nearest that is legal; None is the pattern's own where it has one.

        Returns:
            bool (outputs, inputs), of the sparsity `nearest_sparsity` states.

        Raises:
            DataError: the score is not such an array.
            InputError: no such sparsity, or further from a legal one than rounding explains; or the pattern does not
                fit the shape.
        """

    @abstractmethod
    def nearest_sparsity(self, shape: tuple[int, ...], sparsity: float) -> float:
        """The legal sparsity of a weight of this shape that is nearest to `sparsity`.

        Raises:
            InputError: sparsity is not in 0 .. 1, or the pattern does not fit the shape.
        """

    @abstractmethod
    def guarantee(self, shape: tuple[int, ...], sparsity: float) -> Guarantee:
        """What the packer can count on in every mask of this shape and of the sparsity nearest to `sparsity`.

        Raises:
            InputError: as `nearest_sparsity`.
        """


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """(outputs, inputs) of a weight's shape.

    Raises:
        InputError: fewer than two dimensions, or one of size 0.
    """
    if len(shape) < 2 or min(shape) < 1:
        raise InputError(f"shape: must be (outputs, inputs, ...) and not empty, not {tuple(shape)}")
    return shape[0], int(np.prod(shape[1:], dtype=np.int64))


def as_mask(mask: Any) -> NDArray[np.bool_]:
    """A mask, numpy or torch, as bool (outputs, inputs).

    Raises:
        DataError: not bool, fewer than two dimensions, or empty.
    """
    array = _as_matrix(mask, "mask")
    if array.dtype != np.bool_:
        raise DataError(f"mask: must be bool, not {array.dtype}; weight != 0 is one")
    return array


def as_score(score: Any, name: str = "score") -> NDArray[np.float64]:
    """A score or a weight, numpy or torch, as float64 (outputs, inputs).

    Raises:
        DataError: no numbers, fewer than two dimensions, empty, or not finite.
    """
    array = _as_matrix(score, name)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name}: must be real numbers, not {array.dtype}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise DataError(f"{name}: must be finite, but {np.count_nonzero(~np.isfinite(array))} values are not")
    return array


def _as_matrix(array: Any, name: str) -> NDArray[Any]:
    # Anything that can be detached is a torch tensor: torch itself need not be installed.
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        # numpy has no bfloat16.
        array = array.double() if array.is_floating_point() else array
        array = array.numpy()
    array = np.asarray(array)
    if array.ndim < 2 or not array.size:
        raise DataError(f"{name}: must have the shape (outputs, inputs, ...) and not be empty, not {array.shape}")
    return array.reshape(len(array), -1)


def check_sparsity(sparsity: float | None) -> float:
    """The sparsity itself.

    Raises:
        InputError: None, or not in 0 .. 1.
    """
    if sparsity is None:
        raise InputError("sparsity: this pattern has none of its own; give the share of zeros, from 0 to 1")
    check_share(sparsity, "sparsity")
    return sparsity


def check_share(value: float, name: str) -> None:
    """Raises InputError if `value` is not a number in 0 .. 1."""
    if not isinstance(value, Real) or not 0 <= value <= 1:
        raise InputError(f"{name}: must be a share from 0 to 1, not {value!r}")


def check_size(value: int, name: str, least: int = 1) -> None:
    """Raises InputError if `value` is not an integer of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name}: must be an integer of at least {least}, not {value!r}")


def rounded(amount: float) -> int:
    """The nearest integer, halves upwards: Python's own rounding would take neighbours to the same even one."""
    return floor(amount + 0.5)


def largest(score: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    """Marks the `count` largest of the last dimension; of equal ones the first.

    Args:
        score: (..., n).
        count: 0 .. n.
    """
    if count == 0:
        return np.zeros(score.shape, np.bool_)
    place = score.shape[-1] - count
    least = np.partition(score, place, axis=-1)[..., place : place + 1]
    above, equal = score > least, score == least
    room = count - above.sum(axis=-1, keepdims=True)
    return above | (equal & (np.cumsum(equal, axis=-1) <= room))
