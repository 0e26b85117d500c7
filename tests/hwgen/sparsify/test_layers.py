"""Thresholds over layers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwgen.errors import InputError
from hwgen.sparsify import Complementary, TileElementWise, TileWise, Unstructured, project_all

SHAPES = {"conv": (16, 3, 5, 5), "linear": (30, 41), "output": (7, 30)}


def scores(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.random(shape) for name, shape in SHAPES.items()}


def pruned(masks: dict[str, np.ndarray]) -> float:
    return 1 - sum(mask.sum() for mask in masks.values()) / sum(mask.size for mask in masks.values())


def test_unstructured_layers_have_one_threshold() -> None:
    given_scores = scores(0)
    given_scores["linear"] *= 1.5
    masks = project_all(given_scores, dict.fromkeys(SHAPES, Unstructured()), 0.7)
    flat = {name: score.reshape(len(score), -1) for name, score in given_scores.items()}
    least = min(flat[name][mask].min() for name, mask in masks.items())
    assert least > max(flat[name][~mask].max() for name, mask in masks.items())
    assert pruned(masks) == pytest.approx(0.7, abs=1e-3)
    assert masks["linear"].mean() > 2 * masks["conv"].mean()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sparsity=st.floats(0, 1),
    tiles=st.tuples(*[st.sampled_from([1, 3, 4, 8, 64])] * 3),
    restored=st.sampled_from([0.0, 0.03]),
)
def test_tile_wise_layers_are_legal_and_as_sparse_as_asked(seed, sparsity, tiles, restored) -> None:
    if restored:
        # A layer of which little is pruned has no more to restore.
        sparsity = min(max(sparsity, 0.2), 1 - restored)
    patterns = {
        name: TileElementWise(tile, restored) if restored else TileWise(tile)
        for name, tile in zip(SHAPES, tiles, strict=True)
    }
    masks = project_all(scores(seed), patterns, sparsity)
    assert all(patterns[name].check(mask) for name, mask in masks.items())
    # The first step leaves more or fewer outputs than asked for by half a row, the second can only prune.
    total = sum(mask.size for mask in masks.values())
    assert pruned(masks) == pytest.approx(sparsity, abs=(75 / 2 + 1 + max(min(tile, 30) for tile in tiles) / 2) / total)


def test_longer_outputs_are_not_better_for_being_longer() -> None:
    rng = np.random.default_rng(0)
    layers = {"long": rng.random((64, 400)), "short": rng.random((64, 25))}
    masks = project_all(layers, dict.fromkeys(layers, TileWise(8)), 0.5)
    # Means of longer rows spread less, but have the same middle.
    for mask in masks.values():
        assert 0.3 < mask.any(axis=1).mean() < 0.95
        assert 0.3 < mask.mean() < 0.7


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"conv": Unstructured()}, "patterns: must name the layers that scores names"),
        (dict.fromkeys(SHAPES, Complementary(3)), "not Complementary; project other layers one by one"),
        ({"conv": Unstructured(), "linear": TileWise(4), "output": TileWise(4)}, "not TileWise, Unstructured"),
    ],
)
def test_patterns_that_do_not_rank_over_layers_are_refused(patterns, message) -> None:
    with pytest.raises(InputError, match=message):
        project_all(scores(0), patterns, 0.5)


def test_errors_name_the_layer() -> None:
    with pytest.raises(InputError, match=r"scores\['conv'\]: must be finite"):
        project_all({"conv": np.full((2, 2), np.inf)}, {"conv": Unstructured()}, 0.5)
