"""Scores of weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from hwgen.errors import DataError
from hwgen.sparsify import Unstructured, add_saliency, apply_masks, magnitude


def test_magnitude_is_the_matrix_of_absolute_weights() -> None:
    weight = torch.randn(4, 3, 2, 2, dtype=torch.bfloat16)
    score = magnitude(weight)
    assert score.shape == (4, 12) and score.dtype == np.float64
    assert np.array_equal(score, weight.abs().flatten(1).double().numpy())
    assert magnitude(np.array([[-2, 1]])).tolist() == [[2, 1]]


def test_saliency_adds_squares_of_gradient_times_weight() -> None:
    layer = nn.Linear(3, 2, bias=False)
    expected, saliency = np.zeros((2, 3)), None
    for step in range(3):
        layer.zero_grad()
        layer(torch.full((1, 3), float(step + 1))).square().sum().backward()
        saliency = add_saliency(layer.weight, layer.weight.grad, saliency)
        expected += (layer.weight * layer.weight.grad).detach().double().numpy() ** 2
    assert saliency == pytest.approx(expected)


def test_saliency_of_pruned_weights_is_known_too() -> None:
    layer = nn.Linear(3, 2, bias=False)
    prune.custom_from_mask(layer, "weight", torch.zeros(2, 3))
    dense = layer.weight_orig.detach().clone().requires_grad_()
    (torch.ones(1, 3) @ dense.T).sum().backward()
    assert (add_saliency(dense, dense.grad) > 0).all()


def test_arrays_that_do_not_match_are_refused() -> None:
    with pytest.raises(DataError, match=r"gradient: must be \(2, 3\) like the weight, not \(3, 2\)"):
        add_saliency(np.ones((2, 3)), np.ones((3, 2)))
    with pytest.raises(DataError, match=r"saliency: must be \(2, 3\) like the weight, not \(2, 2\)"):
        add_saliency(np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 2)))
    with pytest.raises(DataError, match="weight: must be finite"):
        magnitude(np.array([[np.nan]]))


def test_masks_of_patterns_prune_torch_models() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3))
    mask = Unstructured().project(magnitude(model[0].weight), 0.75)
    apply_masks(model, {"0": mask})
    assert np.array_equal((model[0].weight != 0).flatten(1).numpy(), mask)
    assert mask.sum() == 18
