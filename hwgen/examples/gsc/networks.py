"""The keyword-spotting network of Hunter, Spracklen and Ahmad (2021), dense and sparse.

conv 5x5, 64 - max-pool 2x2 - conv 5x5, 64 - max-pool 2x2 - linear 1500 - linear 12, with batch norm, which is folded
away. The sparse one has k-WTA (8 of 64 channels at each position, twice, and 150 of 1500 features), and complementary sets
leave it 12 of 25, 200 of 1600 and 64 of 1600 non-zeros an output unit: 127,696 with the biases of the convolutions.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from hwgen.examples.gsc.recordings import CLASSES
from hwgen.nn import KWinners, KWinners2d
from hwgen.sparsify import Complementary

PATTERNS = {"conv1": Complementary(2), "conv2": Complementary(8), "linear": Complementary(25)}
WINNERS = (8, 8, 150)
NONZEROS = 127_696
HIDDEN = 1500


def dense(seed: int, dropout: float = 0.0) -> nn.Sequential:
    """With ReLU, (N, 1, 32, 32) -> (N, 12), untrained."""
    return _network(seed, dropout, nn.ReLU(), nn.ReLU(), nn.ReLU())


def sparse(seed: int, boost: float = 0.0) -> nn.Sequential:
    """With k-WTA, untrained and not pruned yet: a schedule prunes it to `PATTERNS`. `boost` is of training alone."""
    first, second, hidden = WINNERS
    return _network(
        seed,
        0.0,
        KWinners2d(first, n=64, boost_strength=boost),
        KWinners2d(second, n=64, boost_strength=boost),
        KWinners(hidden, n=HIDDEN, boost_strength=boost),
    )


def _network(seed: int, dropout: float, *activations: nn.Module) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(1, 64, 5, bias=False),
                norm1=nn.BatchNorm2d(64),
                pool1=nn.MaxPool2d(2),
                activation1=activations[0],
                conv2=nn.Conv2d(64, 64, 5, bias=False),
                norm2=nn.BatchNorm2d(64),
                pool2=nn.MaxPool2d(2),
                activation2=activations[1],
                flatten=nn.Flatten(),
                linear=nn.Linear(1600, HIDDEN, bias=False),
                norm3=nn.BatchNorm1d(HIDDEN),
                activation3=activations[2],
                dropout=nn.Dropout(dropout),
                output=nn.Linear(HIDDEN, len(CLASSES)),
            )
        )
