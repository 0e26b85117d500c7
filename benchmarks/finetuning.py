"""What quantisation costs the digits network, and what quantisation-aware fine-tuning gives back.

python -m benchmarks.finetuning --json
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from typing import Annotated

import numpy as np
import torch
import typer
from torch import nn
from torch.nn import functional

import hwgen
from hwgen import terminal
from hwgen.examples import digits

# Chosen beforehand and once: a tenth of the training's learning rate, a sixth of its epochs.
FINE_TUNING = {"learning_rate": 0.001, "epochs": 5}
SCALES = {"int8": False, "int8, powers of two": True}


@dataclass(frozen=True)
class Result:
    """One network on the 400 test images.

    Attributes:
        seed: of weights, masks and order of the images.
        network: "float" or the kind of scales.
        training: "none" after the first training, "float" for further training before quantisation, or
            "quantisation-aware" for further training of the integer network; both with the same steps and images.
        accuracy: in [0, 1].
        loss: mean cross-entropy, which moves before any answer does.
    """

    seed: int
    network: str
    training: str
    accuracy: float
    loss: float


def main(
    seeds: Annotated[int, typer.Option(min=1, help="How many networks, each with other weights and masks.")] = 5,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Trains sparse networks, quantises them with both kinds of scales, and fine-tunes each."""
    torch.set_num_threads(1)
    results: list[Result] = []
    with terminal.progress() as report:
        for seed in range(1, seeds + 1):
            report(f"seed {seed}", None)
            results += _one_seed(seed)
    means = _means(results)
    if json:
        terminal.print_json(
            {
                "images": digits.TEST_IMAGES,
                "seeds": seeds,
                "fine_tuning": FINE_TUNING,
                "means": means,
                "runs": [asdict(result) for result in results],
            }
        )
        return
    rows = [(row["network"], row["training"], f"{row['accuracy']:.2%}", f"{row['loss']:.4f}") for row in means]
    title = f"Means of {seeds} networks, {digits.TEST_IMAGES} test images each"
    terminal.print_table(title, ("network", "further training", "accuracy", "loss"), rows, left=2)


def _one_seed(seed: int) -> list[Result]:
    recipe = digits.Recipe(seed=seed)
    trained = digits.train(recipe=recipe)
    images, labels = torch.from_numpy(trained.train_x), torch.from_numpy(trained.train_y)
    tuning = replace(recipe, **FINE_TUNING)

    def fitted(network: nn.Module) -> nn.Module:
        digits.fit(network, images, labels, tuning, lambda share: None)
        return network.eval()

    def judged(network: nn.Module, name: str, training: str) -> Result:
        output = digits.predict(network, trained.test_x)
        loss = functional.cross_entropy(torch.from_numpy(output), torch.from_numpy(trained.test_y))
        return Result(seed, name, training, digits.accuracy(output, trained.test_y), loss.item())

    longer = fitted(copy.deepcopy(trained.sparse).requires_grad_(True))
    results = [judged(trained.sparse, "float", "none"), judged(longer, "float", "float")]
    for name, power_of_two in SCALES.items():
        # Its forward pass is that of the packed network: fine-tuning and every device compute the same.
        prepared = hwgen.quantisation_aware(trained.sparse, trained.train_x, power_of_two=power_of_two)
        control = hwgen.quantisation_aware(longer, trained.train_x, power_of_two=power_of_two)
        results += [judged(prepared, name, "none"), judged(control, name, "float")]
        results.append(judged(fitted(prepared), name, "quantisation-aware"))
    return results


def _means(results: list[Result]) -> list[dict]:
    kinds = list(dict.fromkeys((result.network, result.training) for result in results))
    return [
        {
            "network": network,
            "training": training,
            "accuracy": float(np.mean([r.accuracy for r in results if (r.network, r.training) == (network, training)])),
            "loss": float(np.mean([r.loss for r in results if (r.network, r.training) == (network, training)])),
        }
        for network, training in kinds
    ]


if __name__ == "__main__":
    typer.run(main)
