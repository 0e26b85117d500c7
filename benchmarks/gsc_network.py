"""The keyword-spotting network of the complementary-sparsity paper: the trained one, or weights drawn at random.

Hunter, Spracklen, Ahmad, "Two Sparsities Are Better Than One: Unlocking the Performance Benefits of Sparse-Sparse
Networks" (2021, arXiv 2112.13896). Speed depends on the shapes, the masks and the number of winners, none of which a
training changes, so that random weights and masks measure what other trained networks would.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import hwgen
from hwgen.examples.gsc.trained import PACKED, SHIPPED
from hwgen.format.packed import PackedNetwork
from hwgen.nn import KWinners, KWinners2d
from hwgen.sparsify import apply_masks, complementary_mask

INPUT_SHAPE = (1, 32, 32)
# Non-zeros of each output unit; the output layer is dense.
MASKS = {"conv1": 12, "conv2": 200, "linear": 64}
CALIBRATION_WORDS = 64
BIAS_DEVIATION = 0.1

# What each kind of random number is drawn from, so that more of one does not change another.
_WEIGHTS, _CALIBRATION, _INPUTS = range(3)


def network(seed: int | None) -> PackedNetwork:
    """The network, packed as a user would.

    Args:
        seed: of the weights, the masks and the calibration inputs; None for the trained network of hwgen.examples.gsc.
    """
    if seed is None:
        return hwgen.load(SHIPPED / PACKED)
    return hwgen.pack(model(seed), calibration=_words(seed, CALIBRATION_WORDS, _CALIBRATION))


def inputs(seed: int | None, n: int) -> NDArray[np.float32]:
    """n words to compute, of seed 0 for None, float32 (n, 1, 32, 32); those that calibrate are others."""
    return _words(seed or 0, n, _INPUTS)


def model(seed: int) -> nn.Module:
    """The torch module, in eval mode: (N, 1, 32, 32) -> (N, 12)."""
    layers = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 64, 5),
            pool1=nn.MaxPool2d(2),
            winners1=KWinners2d(k=8),
            conv2=nn.Conv2d(64, 64, 5),
            pool2=nn.MaxPool2d(2),
            winners2=KWinners2d(k=8),
            flatten=nn.Flatten(),
            linear=nn.Linear(1600, 1500),
            winners3=KWinners(k=150),
            output=nn.Linear(1500, 12),
        )
    )
    generator = torch.Generator().manual_seed(int(np.random.default_rng([seed, _WEIGHTS]).integers(2**63)))
    with torch.no_grad():
        for name, layer in layers.named_children():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                assert layer.bias is not None
                # Sums of so many terms stay about as large as the inputs are.
                nonzeros = MASKS.get(name, layer.weight[0].numel())
                layer.weight.normal_(std=nonzeros**-0.5, generator=generator)
                layer.bias.normal_(std=BIAS_DEVIATION, generator=generator)
    weights = {name: getattr(layers, name).weight for name in MASKS}
    masks = {
        name: complementary_mask(len(weight), weight[0].numel(), MASKS[name], generator)
        for name, weight in weights.items()
    }
    apply_masks(layers, masks)
    return layers.eval().requires_grad_(False)


def nonzeros(packed: PackedNetwork) -> int:
    """The paper's count: positions of the masks and the biases of the convolutions."""
    biases = sum(layer.shape[0] for layer in packed.report() if layer.kind == "conv2d")
    return sum(layer.nonzeros for layer in packed.report()) + biases


def _words(seed: int, n: int, purpose: int) -> NDArray[np.float32]:
    return np.random.default_rng([seed, purpose]).normal(size=(n, *INPUT_SHAPE)).astype(np.float32)
