"""One threshold for all layers: a layer whose weights matter less becomes sparser than the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgen.errors import InputError
from hwgen.sparsify.pattern import Pattern, as_score, check_sparsity, largest, rounded
from hwgen.sparsify.tile_element_wise import TileElementWise, restore
from hwgen.sparsify.tile_wise import TileWise, per_dimension
from hwgen.sparsify.unstructured import Unstructured


def project_all(
    scores: Mapping[str, Any], patterns: Mapping[str, Pattern], sparsity: float
) -> dict[str, NDArray[np.bool_]]:
    """Masks of several layers, whose scores compete with each other.

    Unstructured: the largest scores of all layers are kept. Tile-wise (Guo et al. 2020, arXiv 2008.13006): outputs of
    all layers are ranked by their mean score, then inputs of tiles by theirs; TileElementWise adds the best single
    elements of each layer. A layer can lose all its weights.

    Args:
        scores: name of a layer -> (outputs, ...).
        patterns: the same names -> patterns of one kind: Unstructured, TileWise or TileElementWise. Tiles may differ.
        sparsity: share of zeros in all layers together; tile-wise masks come as near as whole inputs of tiles allow.

    Returns:
        name -> bool (outputs, inputs), legal for the layer's own pattern.

    Raises:
        DataError: a score is not such an array.
        InputError: the names differ, no such sparsity, or patterns that do not rank over layers.
    """
    if set(scores) != set(patterns) or not scores:
        raise InputError(
            f"patterns: must name the layers that scores names, {sorted(scores)}, and at least one, "
            f"not {sorted(patterns)}"
        )
    check_sparsity(sparsity)
    matrices = {name: as_score(score, f"scores[{name!r}]") for name, score in scores.items()}
    kinds = {type(pattern) for pattern in patterns.values()}
    if kinds == {Unstructured}:
        return _unstructured(matrices, sparsity)
    if kinds == {TileWise}:
        tiles = {name: pattern.tile for name, pattern in patterns.items() if isinstance(pattern, TileWise)}
        return _tile_wise(matrices, tiles, sparsity)
    if kinds == {TileElementWise}:
        return _tile_element_wise(matrices, patterns, sparsity)
    names = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise InputError(
        f"patterns: a ranking over layers needs Unstructured, TileWise or TileElementWise, one of them for all, not "
        f"{names}; project other layers one by one"
    )


def _unstructured(scores: dict[str, NDArray[np.float64]], sparsity: float) -> dict[str, NDArray[np.bool_]]:
    together = np.concatenate([score.ravel() for score in scores.values()])
    kept = largest(together, rounded((1 - sparsity) * together.size))
    return _apart(kept, {name: score.shape for name, score in scores.items()})


def _tile_wise(
    scores: dict[str, NDArray[np.float64]], tiles: dict[str, int], sparsity: float
) -> dict[str, NDArray[np.bool_]]:
    size = sum(score.size for score in scores.values())
    means = {name: score.mean(axis=1, keepdims=True) for name, score in scores.items()}
    lengths = {name: np.full(means[name].shape, score.shape[1]) for name, score in scores.items()}
    outputs = {
        name: np.flatnonzero(kept)
        for name, kept in _keep_best(means, lengths, (1 - per_dimension(sparsity)) * size).items()
    }
    means, lengths = {}, {}
    for name, score in scores.items():
        rows = score[outputs[name]]
        starts = np.arange(0, len(rows), tiles[name])
        members = np.minimum(tiles[name], len(rows) - starts)[:, None]
        sums = np.add.reduceat(rows, starts, axis=0) if len(rows) else rows
        means[name] = sums / members
        lengths[name] = np.broadcast_to(members, sums.shape)
    kept = _keep_best(means, lengths, (1 - sparsity) * size)
    masks = {}
    for name, score in scores.items():
        masks[name] = np.zeros(score.shape, np.bool_)
        masks[name][outputs[name]] = kept[name].repeat(tiles[name], axis=0)[: len(outputs[name])]
    return masks


def _tile_element_wise(
    scores: dict[str, NDArray[np.float64]], patterns: Mapping[str, Pattern], sparsity: float
) -> dict[str, NDArray[np.bool_]]:
    own = {name: pattern for name, pattern in patterns.items() if isinstance(pattern, TileElementWise)}
    singles = {name: rounded(own[name].restored * score.size) for name, score in scores.items()}
    share = sum(singles.values()) / sum(score.size for score in scores.values())
    tiles = {name: pattern.tile for name, pattern in own.items()}
    masks = _tile_wise(scores, tiles, min(1.0, sparsity + share))
    return {name: restore(score, masks[name], singles[name]) for name, score in scores.items()}


def _keep_best(
    means: dict[str, NDArray[np.float64]], lengths: dict[str, NDArray[np.int64]], kept: float
) -> dict[str, NDArray[np.bool_]]:
    """Keeps the units of the highest means until their lengths come nearest to `kept` elements."""
    order = np.argsort(-np.concatenate([mean.ravel() for mean in means.values()]), kind="stable")
    total = np.cumsum(np.concatenate([length.ravel() for length in lengths.values()])[order])
    count = int(np.argmin(np.abs(np.concatenate([[0], total]) - kept)))
    mask = np.zeros(len(order), np.bool_)
    mask[order[:count]] = True
    return _apart(mask, {name: mean.shape for name, mean in means.items()})


def _apart(together: NDArray[np.bool_], shapes: dict[str, tuple[int, ...]]) -> dict[str, NDArray[np.bool_]]:
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    parts = np.split(together, ends[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
