"""What quantisation costs the digits network, and what quantisation-aware fine-tuning gives back.

python -m benchmarks.finetuning --json
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

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
# One image of the calibration data so many times as bright as it should be: a scale that is too coarse by as much.
GLITCH = 32


@dataclass(frozen=True)
class Result:
    """One network on the 400 test images.

    Attributes:
        seed: of weights, masks and order of the images.
        network: "float" or the kind of scales.
        calibration: "clean", the training images, or "glitch", the same and one that is 32 times as bright, which
            leaves the others 3 of 8 bits; "" for the float network.
        training: "none" after the first training, "float" for further training before quantisation, or
            "quantisation-aware" for further training of the integer network; both with the same steps and images.
        accuracy: in [0, 1].
        loss: mean cross-entropy, which moves before any answer does.
    """

    seed: int
    network: str
    calibration: str
    training: str
    accuracy: float
    loss: float


def main(
    seeds: Annotated[int, typer.Option(min=1, help="How many networks, each with other weights and masks.")] = 3,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Trains sparse networks, quantises them with both kinds of scales, well calibrated and badly, and fine-tunes each."""
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
                "glitch": GLITCH,
                "means": means,
                "runs": [asdict(result) for result in results],
            }
        )
        return
    rows = [
        (row["network"], row["calibration"], row["training"], f"{row['accuracy']:.2%}", f"{row['loss']:.4f}")
        for row in means
    ]
    title = f"Means of {seeds} networks, {digits.TEST_IMAGES} test images each"
    terminal.print_table(title, ("network", "calibration", "further training", "accuracy", "loss"), rows, left=3)


def _one_seed(seed: int) -> list[Result]:
    recipe = digits.Recipe(seed=seed)
    trained = digits.train(recipe=recipe)
    images, labels = torch.from_numpy(trained.train_x), torch.from_numpy(trained.train_y)
    tuning = replace(recipe, **FINE_TUNING)

    def fitted(network: nn.Module) -> nn.Module:
        digits.fit(network, images, labels, tuning, lambda share: None)
        return network.eval()

    def judged(network: nn.Module, *kind: str) -> Result:
        output = digits.predict(network, trained.test_x)
        loss = functional.cross_entropy(torch.from_numpy(output), torch.from_numpy(trained.test_y))
        return Result(seed, *kind, digits.accuracy(output, trained.test_y), loss.item())

    longer = fitted(copy.deepcopy(trained.sparse).requires_grad_(True))
    results = [judged(trained.sparse, "float", "", "none"), judged(longer, "float", "", "float")]
    glitch = np.concatenate([trained.train_x, GLITCH * trained.train_x[:1]])
    for calibration, data in {"clean": trained.train_x, "glitch": glitch}.items():
        for name, power_of_two in SCALES.items():
            # Its forward pass is that of the packed network: it is judged as every device would compute it.
            prepared = hwgen.quantisation_aware(trained.sparse, data, power_of_two=power_of_two)
            control = hwgen.quantisation_aware(longer, data, power_of_two=power_of_two)
            results += [
                judged(prepared, name, calibration, "none"),
                judged(control, name, calibration, "float"),
                judged(fitted(prepared), name, calibration, "quantisation-aware"),
            ]
    return results


def _means(results: list[Result]) -> list[dict[str, Any]]:
    kinds: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        kinds.setdefault((result.network, result.calibration, result.training), []).append(result)
    return [
        {
            "network": network,
            "calibration": calibration,
            "training": training,
            "accuracy": float(np.mean([result.accuracy for result in group])),
            "loss": float(np.mean([result.loss for result in group])),
        }
        for (network, calibration, training), group in kinds.items()
    ]


if __name__ == "__main__":
    typer.run(main)
