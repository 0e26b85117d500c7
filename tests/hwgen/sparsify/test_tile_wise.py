"""Tile-wise sparsity: both of its steps, and the elements beside the tiles."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.sparsify import TileElementWise, TileWise
from hwgen.sparsify.tiles import fewest_singles
from tests.hwgen.sparsify import brute_force


def test_outputs_and_inputs_are_pruned_at_the_same_rate() -> None:
    # 1 - sqrt(1 - 0.75) = 0.5 of both.
    score = np.random.default_rng(0).random((64, 96))
    mask = TileWise(8).project(score, 0.75)
    outputs = np.flatnonzero(mask.any(axis=1))
    assert set(outputs.tolist()) == set(np.argsort(-score.sum(axis=1))[:32].tolist())
    tiles = mask[outputs].reshape(4, 8, 96)
    assert (tiles == tiles[:, :1]).all()
    assert mask.mean() == 0.25
    # One threshold for all tiles: some keep more inputs than others.
    sums = score[outputs].reshape(4, 8, 96).sum(axis=1)
    assert sums[tiles[:, 0]].min() > sums[~tiles[:, 0]].max()
    assert len(set(tiles[:, 0].sum(axis=1).tolist())) > 1


@pytest.mark.parametrize("seed", range(5))
def test_inputs_of_tiles_are_the_best_for_their_outputs(seed) -> None:
    score = np.random.default_rng(seed).random((5, 4))
    pattern = TileWise(2)
    # At 0.4 one output goes, which leaves two full tiles; at 0.2 none does, and the last tile is half a one.
    for sparsity in (0.2, 0.4):
        mask = pattern.project(score, sparsity)
        outputs = np.flatnonzero(mask.any(axis=1))
        legal = (
            other
            for other in brute_force.all_masks(len(outputs), 4)
            if other.sum() == mask.sum() and other.any(axis=1).all() and brute_force.is_tile_wise(other, 2)
        )
        assert score[mask].sum() == pytest.approx(max(score[outputs][other].sum() for other in legal))


def test_the_best_single_elements_return() -> None:
    score = np.random.default_rng(1).random((24, 40))
    tiles = TileWise(8).project(score, 0.7 + 0.05)
    mask = TileElementWise(8, 0.05).project(score, 0.7)
    assert not (tiles & ~mask).any()
    restored = mask & ~tiles
    assert restored.sum() == 48
    assert score[restored].min() >= score[~mask].max()
    assert mask.mean() == pytest.approx(0.3, abs=8 / 960)
    assert TileElementWise(8, 0.05).check(mask) and not TileElementWise(8, 0.04).check(mask)
    assert not TileWise(8).check(mask)


def test_restored_elements_are_told_from_tiles_at_the_size_of_a_layer() -> None:
    score = np.abs(np.random.default_rng(2).standard_normal((300, 400)))
    pattern = TileElementWise(32, 0.02)
    mask = pattern.project(score, 0.8)
    assert pattern.check(mask)
    assert fewest_singles(mask, 32) == 2400
    assert not pattern.check(np.random.default_rng(3).random((300, 400)) < 0.2)


@pytest.mark.parametrize("sparsity", [0.0, 1.0])
def test_nothing_and_everything_can_be_pruned(sparsity) -> None:
    mask = TileWise(4).project(np.random.default_rng(0).random((7, 5)), sparsity)
    assert mask.all() if sparsity == 0 else not mask.any()
    assert TileWise(4).check(mask)
