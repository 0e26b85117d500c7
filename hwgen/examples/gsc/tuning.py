"""The last phase of a training: the sparse network goes on in the arithmetic of the hardware."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import hwgen
from hwgen.examples.gsc import training
from hwgen.examples.gsc.recordings import Recordings
from hwgen.finetune import QuantisationAware


def fine_tune(
    sparse: nn.Module,
    recordings: Recordings,
    recipe: training.Recipe,
    calibration: NDArray[np.float32],
    *,
    teacher: nn.Module,
    phase: int,
    report: Callable[[str, float | None], None] = lambda message, share: None,
    epoch_end: Callable[[int, nn.Module, float], None] = lambda epoch, network, loss: None,
) -> QuantisationAware:
    """Fine-tunes a trained and pruned network on the CPU; its zeros stay.

    Args:
        sparse: the network, in eval mode; it is left as it was.
        recordings: to train on.
        recipe: how; `epochs` are those of this phase.
        calibration: spectrograms (N, 1, 32, 32) that fix the scales of the activations.
        teacher: a trained network whose outputs are learnt beside the labels.
        phase, report, epoch_end: as `training.fit` takes them.

    Returns:
        A module that packs to what it computes.
    """
    network = hwgen.quantisation_aware(sparse, calibration)
    batches = len(recordings) // recipe.batch
    steps = recipe.epochs * batches
    optimiser = torch.optim.Adam(network.parameters(), lr=recipe.tuning_rate, fused=True)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    losses = []
    rng = np.random.default_rng([recipe.seed, 1, phase])
    for step, batch in enumerate(training.prepared(recordings, recipe, rng)):
        with torch.no_grad():
            example = teacher(batch.x)
        loss = training.batch_loss(network(batch.x), batch, example, recipe)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
        losses.append(loss.detach())
        if (step + 1) % batches == 0:
            epoch_end((step + 1) // batches, network, float(torch.stack(losses).mean()))
            losses = []
        report("fine-tuning", (step + 1) / steps)
    return network
