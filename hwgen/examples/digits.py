"""Handwritten digits: a dense network and its sparse-sparse twin, trained in seconds on a CPU.

The data is scikit-learn's `load_digits`: 1,797 grey images of 8x8, which come with the package (nothing is downloaded).
Both networks have one shape; the sparse one has complementary weight masks and k-WTA where the dense one has ReLU.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from hwgen.format import cache
from hwgen.nn import KWinners, KWinners2d
from hwgen.nn import __file__ as nn_file
from hwgen.sparsify import apply_masks, complementary_mask
from hwgen.sparsify.masks import __file__ as masks_file

Progress: TypeAlias = Callable[[str, float], None]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights.

    Attributes:
        channels: outputs of the two convolutions.
        hidden: outputs of the hidden linear layer.
        nonzeros: of each output unit of conv1 (of 9), conv2 (of 288) and the hidden layer (of 1024).
        winners: k of 32 and of 64 channels at each position, and of the hidden features.
        epochs, batch, learning_rate, weight_decay: AdamW with a one-cycle schedule.
        shift: training images move by up to so many pixels.
        seed: of the weights, the masks and the order of the images.
    """

    channels: tuple[int, int] = (32, 64)
    hidden: int = 128
    nonzeros: tuple[int, int, int] = (4, 36, 128)
    winners: tuple[int, int, int] = (4, 8, 64)
    epochs: int = 30
    batch: int = 64
    learning_rate: float = 0.01
    weight_decay: float = 0.01
    shift: int = 1
    seed: int = 1


TEST_IMAGES = 400


@dataclass(frozen=True, eq=False)
class Digits:
    """The trained networks and their data.

    Attributes:
        dense, sparse: modules in eval mode, (N, 1, 8, 8) -> (N, 10).
        train_x, test_x: float32 (N, 1, 8, 8) in [0, 1].
        train_y, test_y: int64 (N,), the digits.
        accuracy_dense, accuracy_sparse: share of correct test images, in [0, 1].
    """

    dense: nn.Module
    sparse: nn.Module
    train_x: NDArray[np.float32]
    train_y: NDArray[np.int64]
    test_x: NDArray[np.float32]
    test_y: NDArray[np.int64]
    accuracy_dense: float
    accuracy_sparse: float


def train(progress: Progress | None = None, *, recipe: Recipe | None = None) -> Digits:
    """Trains both networks, or loads them from the cache.

    The cache is that of `hwgen.format.cache`; a damaged file is made anew.

    Args:
        progress: called with what is done and the share of it that is complete, in [0, 1].
        recipe: what to train; the default recipe is what `hwgen demo` uses.
    """
    recipe = recipe or Recipe()
    report = progress or (lambda message, share: None)
    train_x, train_y, test_x, test_y = load_data()
    networks = {"dense": dense_network(recipe), "sparse": sparse_network(recipe)}
    path = cache.folder() / f"digits-{_fingerprint(recipe)}.safetensors"
    with _one_thread():
        if not _load(path, networks):
            for order, (name, network) in enumerate(networks.items()):
                fit(
                    network,
                    torch.from_numpy(train_x),
                    torch.from_numpy(train_y),
                    recipe,
                    lambda share, name=name, order=order: report(f"training the {name} network", (order + share) / 2),  # type: ignore[misc]
                )
            _save(path, networks)
        for network in networks.values():
            network.eval().requires_grad_(False)
        accuracies = [accuracy(predict(network, test_x), test_y) for network in networks.values()]
    report("trained", 1.0)
    return Digits(networks["dense"], networks["sparse"], train_x, train_y, test_x, test_y, *accuracies)


def load_data() -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """(train images, train labels, test images, test labels): a fixed split with equal shares of every digit."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = (data.images / 16.0).astype(np.float32)[:, None]
    train_x, test_x, train_y, test_y = train_test_split(
        images, data.target.astype(np.int64), test_size=TEST_IMAGES, stratify=data.target, random_state=0
    )
    return train_x, train_y, test_x, test_y


def predict(network: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The network's output (N, 10) for images (N, 1, 8, 8)."""
    with torch.no_grad():
        return network.eval()(torch.from_numpy(images)).numpy()


def accuracy(output: NDArray, labels: NDArray[np.int64]) -> float:
    """Share of rows of output (N, classes) whose largest value is at the label."""
    return float((output.argmax(axis=1) == labels).mean())


def dense_network(recipe: Recipe) -> nn.Module:
    """The network with ReLU, untrained."""
    return _network(recipe, nn.ReLU(), nn.ReLU(), nn.ReLU())


def sparse_network(recipe: Recipe) -> nn.Module:
    """The network with k-WTA and complementary masks, untrained."""
    first, second, hidden = recipe.winners
    network = _network(recipe, KWinners2d(k=first), KWinners2d(k=second), KWinners(k=hidden))
    generator = torch.Generator().manual_seed(recipe.seed)
    weights = {name: getattr(network, name).weight for name in ("conv1", "conv2", "linear1")}
    masks = {
        name: complementary_mask(len(weight), weight[0].numel(), nonzeros, generator)
        for (name, weight), nonzeros in zip(weights.items(), recipe.nonzeros, strict=True)
    }
    apply_masks(network, masks)
    return network


def _network(recipe: Recipe, *activations: nn.Module) -> nn.Module:
    # k-WTA follows the pool, so that the next layer's input has exactly k winners at every position.
    first, second = recipe.channels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(1, first, 3, padding=1, bias=False),
                norm1=nn.BatchNorm2d(first),
                activation1=activations[0],
                conv2=nn.Conv2d(first, second, 3, padding=1, bias=False),
                norm2=nn.BatchNorm2d(second),
                pool2=nn.MaxPool2d(2),
                activation2=activations[1],
                flatten=nn.Flatten(),
                linear1=nn.Linear(second * 16, recipe.hidden, bias=False),
                norm3=nn.BatchNorm1d(recipe.hidden),
                activation3=activations[2],
                linear2=nn.Linear(recipe.hidden, 10),
            )
        )


def fit(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, recipe: Recipe, report: Callable[[float], None]
) -> None:
    """Trains the network in place on images (N, 1, 8, 8) as the recipe says; report is told the share that is done."""
    generator = torch.Generator().manual_seed(recipe.seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    # A last batch of a few images would upset batch norm: it is left out, another one each epoch.
    batches = len(images) // recipe.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, recipe.epochs * batches)
    network.train()
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(images), generator=generator)
        for chosen in order[: batches * recipe.batch].split(recipe.batch):
            x = _shifted(images[chosen], recipe.shift, generator)
            loss = nn.functional.cross_entropy(network(x), labels[chosen], label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        report((epoch + 1) / recipe.epochs)


def _shifted(images: torch.Tensor, limit: int, generator: torch.Generator) -> torch.Tensor:
    """The batch moved by up to `limit` pixels each way, black outside."""
    down, right = torch.randint(0, 2 * limit + 1, (2,), generator=generator).tolist()
    height, width = images.shape[2:]
    return nn.functional.pad(images, (limit,) * 4)[:, :, down : down + height, right : right + width]


def _fingerprint(recipe: Recipe) -> str:
    # The code belongs to the recipe: an edited network, layer or training loop must not load older weights.
    sources = [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in (__file__, nn_file, masks_file)]
    facts = json.dumps([asdict(recipe), sources, torch.__version__], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def _save(path: Path, networks: dict[str, nn.Module]) -> None:
    tensors = {f"{name}.{key}": value for name, net in networks.items() for key, value in net.state_dict().items()}
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    # Renamed only when complete, so that a process beside this one never reads half a file.
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    save_file(tensors, partial, metadata={"sha256": _digest(tensors)})
    partial.replace(path)


def _load(path: Path, networks: dict[str, nn.Module]) -> bool:
    """Fills the networks from the file; False if it is not there or not what was saved."""
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            expected = (file.metadata() or {}).get("sha256")
        if _digest(tensors) != expected:
            return False
        for name, network in networks.items():
            network.load_state_dict({key: tensors[f"{name}.{key}"] for key in network.state_dict()})
    except (SafetensorError, KeyError, RuntimeError, OSError):
        return False
    return True


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(f"{key} {tensors[key].dtype} {tuple(tensors[key].shape)}".encode())
        digest.update(tensors[key].numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The order of torch's sums depends on the number of threads; one is no slower on layers as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
