"""Training on the CPU or a GPU: one loop for the dense and the sparse network, with the same data and budget."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import prune

from hwgen.examples.gsc.augmentation import Augmentation
from hwgen.examples.gsc.features import BANDS, FRAMES, log_mel
from hwgen.examples.gsc.recordings import CLASSES, Recordings
from hwgen.nn import KWinners, KWinners2d
from hwgen.sparsify import GradualMagnitude, Pattern

Network = TypeVar("Network", bound=nn.Module)
SILENCE = CLASSES.index("_silence_")


class Batch(NamedTuple):
    """What a step learns from.

    Attributes:
        x: varied spectrograms (N, 1, 32, 32), channels last.
        labels: of each.
        others: labels (N) of what was mixed into each.
        share: of each in itself, (N).
    """

    x: torch.Tensor
    labels: torch.Tensor
    others: torch.Tensor
    share: torch.Tensor


@dataclass(frozen=True)
class Recipe:
    """What decides the trained weights, beside the data.

    Attributes:
        epochs: of a phase. Each network is made in three of them; two are of the dense one in which both begin.
        batch, learning_rate, weight_decay: AdamW with a one-cycle schedule.
        dropout: of the hidden features of the dense network; k-WTA is enough of it for the sparse one.
        smoothing: of the labels.
        boost: of the k-WTA, at the beginning; it falls to zero in the first half. Behind batch norm all units win
            about equally often without it.
        begin, end, every: of pruning, as shares of all steps: when it begins and ends, and how often masks change.
        distillation: weight of a teacher's outputs in the loss, softened by `temperature` (Hinton, Vinyals and Dean
            2015, arXiv 1503.02531); the labels have the rest.
        averaging: share of the weights' moving average that each step keeps; the average is the result.
        tuning: of the sparse network in the arithmetic of the hardware at the end, as a share of a phase's epochs; they
            are among its own.
        tuning_rate: the learning rate of that, falling to 0.
        renewal: epochs for which a varied recording is kept; what is blanked in it and mixed into it changes each time.
        bfloat16: convolutions, products and activations in bfloat16 (`torch.autocast`), weights and their updates in
            float32.
        seed: of weights, masks, order and variations.
    """

    epochs: int = 80
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    dropout: float = 0.3
    smoothing: float = 0.1
    boost: float = 0.0
    begin: float = 0.04
    end: float = 0.44
    every: float = 0.04
    distillation: float = 0.9
    temperature: float = 2.0
    averaging: float = 0.998
    tuning: float = 0.04
    tuning_rate: float = 2e-4
    renewal: int = 4
    bfloat16: bool = False
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)


def fit(
    make: Callable[[], nn.Sequential],
    recordings: Recordings,
    recipe: Recipe,
    *,
    phase: int = 0,
    patterns: Mapping[str, Pattern] | None = None,
    teacher: nn.Module | None = None,
    device: str = "cpu",
    report: Callable[[str, float | None], None] = lambda message, share: None,
    epoch_end: Callable[[int, nn.Module, float], None] = lambda epoch, network, loss: None,
) -> nn.Sequential:
    """Trains a network, or goes on with it.

    Args:
        make: makes the network to begin with; called twice, for the network and for the average of its weights.
        recordings: to train on.
        recipe: how.
        phase: of a longer training: each has an order and variations of its own.
        patterns: of the layers to prune meanwhile, by name.
        teacher: a trained network whose outputs are learnt beside the labels.
        device: of torch.
        report: told which share is done.
        epoch_end: called after each epoch with its number, the averaged network and the mean loss.

    Returns:
        The averaged network, in eval mode on the CPU.
    """
    rng = np.random.default_rng([recipe.seed, 1, phase])
    # A last batch of a few would upset batch norm: it is left out, another one each epoch.
    batches = len(recordings) // recipe.batch
    steps = recipe.epochs * batches
    # Channels last is how k-WTA reads them, and on a CPU convolutions are a third faster.
    network, average = (_laid_out(make().to(device), torch.channels_last) for _ in range(2))
    network.train()
    average.eval()
    schedule = None
    if patterns:
        begin, end, every = (max(1, round(share * steps)) for share in (recipe.begin, recipe.end, recipe.every))
        schedule = GradualMagnitude(network, patterns, begin=begin, end=max(end, begin + 1), every=every)
        for name in patterns:
            prune.identity(average.get_submodule(name), "weight")
    average.load_state_dict(network.state_dict())
    if teacher is not None:
        teacher = _laid_out(copy.deepcopy(teacher).to(device).eval(), torch.channels_last)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, steps)
    boosted = [module for module in network.modules() if isinstance(module, KWinners | KWinners2d)]
    losses = []
    for step, prepared_batch in enumerate(prepared(recordings, recipe, rng)):
        for module in boosted:
            module.boost_strength = recipe.boost * max(0.0, 1 - 2 * step / steps)
        batch = Batch(*(tensor.to(device) for tensor in prepared_batch))
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=recipe.bfloat16):
            output = network(batch.x).float()
            with torch.no_grad():
                example = None if teacher is None else teacher(batch.x).float()
        loss = batch_loss(output, batch, example, recipe)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
        if schedule is not None:
            schedule.step()
        # The average of the first steps is no older than they are.
        _move(average, network, 1 - min(recipe.averaging, (step + 1) / (step + 10)))
        losses.append(loss.detach())
        if (step + 1) % batches == 0:
            _share_masks(average, network)
            epoch_end((step + 1) // batches, average, float(torch.stack(losses).mean()))
            losses = []
        report("training", (step + 1) / steps)
    network.load_state_dict(average.state_dict())
    if schedule is not None:
        schedule.finish()
    return _laid_out(network.cpu().eval(), torch.contiguous_format)


def batch_loss(output: torch.Tensor, batch: Batch, example: torch.Tensor | None, recipe: Recipe) -> torch.Tensor:
    """Loss of outputs (N, classes): of the labels, and of a teacher's outputs if there are any."""
    loss = mixed_loss(output, batch.labels, batch.others, batch.share, recipe.smoothing)
    if example is None:
        return loss
    return torch.lerp(loss, taught_loss(output, example, recipe.temperature), recipe.distillation)


def mixed_loss(
    output: torch.Tensor, labels: torch.Tensor, others: torch.Tensor, share: torch.Tensor, smoothing: float
) -> torch.Tensor:
    """Mean cross-entropy of outputs (N, classes), of which each has a share in its own label and the rest in the other."""
    own, other = (
        nn.functional.cross_entropy(output, target, label_smoothing=smoothing, reduction="none")
        for target in (labels, others)
    )
    return torch.lerp(other, own, share).mean()


def taught_loss(output: torch.Tensor, example: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean cross-entropy of outputs (N, classes) and a teacher's, both softened."""
    softened = (example / temperature).softmax(dim=1)
    return nn.functional.cross_entropy(output / temperature, softened) * temperature**2


def has_bfloat16(device: str) -> bool:
    """Whether it pays to train in bfloat16: on a processor with instructions for it (Intel AMX, AVX512_BF16)."""
    supported = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.device(device).type == "cpu" and supported


def _laid_out(network: Network, layout: torch.memory_format) -> Network:
    """Its convolutions' weights and masks in another order in memory."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=layout)
    return network


def _channels_last(batch: torch.Tensor) -> torch.Tensor:
    """With strides that say channels last: of one channel torch takes it for contiguous, and all layers follow."""
    return torch.empty_like(batch, memory_format=torch.channels_last).copy_(batch)


def _move(average: nn.Module, network: nn.Module, share: float) -> None:
    """Moves the average's weights and statistics towards the network's."""
    with torch.no_grad():
        for (name, kept), value in zip(average.state_dict().items(), network.state_dict().values(), strict=True):
            if _moves(name, kept):
                kept.lerp_(value, share)


def _share_masks(average: nn.Module, network: nn.Module) -> None:
    """Gives the average what is not averaged."""
    for (name, kept), value in zip(average.state_dict().items(), network.state_dict().values(), strict=True):
        if not _moves(name, kept):
            kept.copy_(value)


def _moves(name: str, value: torch.Tensor) -> bool:
    return value.dtype.is_floating_point and not name.endswith("_mask")


def prepared(recordings: Recordings, recipe: Recipe, rng: np.random.Generator) -> Iterator[Batch]:
    """Batches of varied spectrograms for all epochs, made one ahead in a thread."""
    varied = np.zeros((len(recordings), 1, BANDS, FRAMES), np.float32)
    missing = np.ones(len(recordings), bool)
    silence = recordings.waves[recordings.labels == SILENCE]
    batches = len(recordings) // recipe.batch

    def make(epoch: int, chosen: NDArray[np.int64], own: np.random.Generator) -> Batch:
        renewed = chosen[missing[chosen] | ((chosen + epoch) % recipe.renewal == 0)]
        if len(renewed):
            varied[renewed] = log_mel(recipe.augmentation.waves(recordings.waves[renewed], silence, own))
            missing[renewed] = False
        x, other, share = recipe.augmentation.mix(recipe.augmentation.spectrograms(varied[chosen], own), own)
        labels = recordings.labels[chosen]
        labelled = (torch.from_numpy(array) for array in (labels, labels[other], share))
        return Batch(_channels_last(torch.from_numpy(x)), *labelled)

    with ThreadPoolExecutor(1) as pool:
        following = None
        for epoch in range(recipe.epochs):
            order = rng.permutation(len(recordings))[: batches * recipe.batch]
            for chosen in order.reshape(batches, recipe.batch):
                ready, following = following, pool.submit(make, epoch, chosen, rng.spawn(1)[0])
                if ready is not None:
                    yield ready.result()
        if following is not None:
            yield following.result()


def predict(network: nn.Module, x: NDArray[np.float32], batch: int = 256) -> NDArray[np.float32]:
    """Outputs (N, 12) of spectrograms."""
    with torch.no_grad():
        parts = [network(torch.from_numpy(x[start : start + batch])).numpy() for start in range(0, len(x), batch)]
    return np.concatenate(parts)


def spectrograms(recordings: Recordings) -> NDArray[np.float32]:
    """Of recordings as they are."""
    return np.concatenate(
        [log_mel(recordings.waves[start : start + 256] / np.float32(32768)) for start in range(0, len(recordings), 256)]
    )
