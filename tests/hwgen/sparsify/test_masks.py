from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hwgen.errors import InputError
from hwgen.sparsify import apply_masks, complementary_mask


def test_a_second_mask_replaces_the_first():
    layer = nn.Linear(6, 4)
    model = nn.Sequential(layer)
    weight = layer.weight.detach().clone()
    for seed in range(2):
        mask = np.random.default_rng(seed).random((4, 6)) < 0.5
        apply_masks(model, {"0": mask})
        np.testing.assert_array_equal(layer.weight.detach(), np.where(mask, weight, 0))
        layer(torch.zeros(1, 6))
        np.testing.assert_array_equal(layer.weight.detach(), np.where(mask, weight, 0))


@pytest.mark.parametrize("generator", [3, np.random.default_rng(3)])
def test_generators_of_other_kinds(generator):
    with pytest.raises(InputError, match="generator: must be a torch.Generator, such as .*, not "):
        complementary_mask(4, 8, 2, generator)
