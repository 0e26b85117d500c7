"""What patterns of sparsity and schedules of pruning cost in accuracy, and what they save in hardware.

    python -m benchmarks.patterns            # a Markdown table
    python -m benchmarks.patterns --json

A network of LeNet's shape with ReLU learns noisy digits: activations are dense, so that weights alone decide. Every pattern is combined with every schedule, all with the
same batches, steps and learning rates. Each finished cell is a line of a file; the command goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

import hwgen
from boards.catalogue import board
from hwgen import terminal
from hwgen.examples.digits import load_data
from hwgen.sparsify import (
    Block,
    Complementary,
    FixedRandom,
    GradualMagnitude,
    NofM,
    OneShot,
    Partitioned,
    Pattern,
    RigL,
    Schedule,
    TileElementWise,
    TileWise,
    Unstructured,
)

# The first convolution and the output layer, a fifteenth of all weights, stay dense.
LAYERS = ("conv2", "linear1")
SPARSITY = 0.9
PATTERNS: dict[str, Pattern] = {
    "unstructured": Unstructured(),
    "block X, 1 x 4": Block(1, 4),
    "block Y, 4 x 1": Block(4, 1),
    "block XY, 4 x 4": Block(4, 4),
    "partitioned X, 4": Partitioned(inputs=4),
    "partitioned Y, 4": Partitioned(outputs=4),
    "partitioned XY, 4 and 4": Partitioned(inputs=4, outputs=4),
    "1:10": NofM(1, 10),
    "complementary, 10": Complementary(10),
    "tile-wise, 8": TileWise(8),
    "TEW, 8 and 2 %": TileElementWise(8, 0.02),
}
SIZE, UPSCALED = 20, 16
NOISE = 0.4
BATCH, TEST_DRAWS = 32, 5
LEARNING_RATE, WEIGHT_DECAY = 0.01, 0.01
# Multiplier blocks of the board for which all are planned; the rest of it is an ECP5-85F.
MULTIPLIERS = 32


Own = dict[str, float]
Make = Callable[[nn.Module, dict[str, Pattern], Own, int, int], Sequence[Schedule]]


def _gradual(model: nn.Module, patterns: dict[str, Pattern], own: Own, steps: int) -> GradualMagnitude:
    return GradualMagnitude(model, patterns, own, begin=steps // 10, end=steps * 6 // 10, every=steps // 40)


def _projected(model: nn.Module, patterns: dict[str, Pattern], own: Own, steps: int, seed: int) -> list[Schedule]:
    """A ramp that knows no pattern, and the pattern at its end."""
    loose: dict[str, Pattern] = dict.fromkeys(patterns, Unstructured())
    return [_gradual(model, loose, own, steps), OneShot(model, patterns, own, at=steps * 6 // 10)]


SCHEDULES: dict[str, Make] = {
    "one-shot": lambda model, patterns, own, steps, seed: [OneShot(model, patterns, own, at=steps // 2)],
    "gradual": lambda model, patterns, own, steps, seed: [_gradual(model, patterns, own, steps)],
    "gradual, projected at the end": _projected,
    "RigL": lambda model, patterns, own, steps, seed: [
        RigL(model, patterns, own, end=steps * 3 // 4, every=steps // 20, seed=seed, rescale=True)
    ],
    "fixed random": lambda model, patterns, own, steps, seed: [
        FixedRandom(model, patterns, own, seed=seed, rescale=True)
    ],
}


@dataclass(frozen=True)
class Cell:
    """One network.

    Attributes:
        pattern, schedule: names in this file; "none" is the dense network.
        seed, steps: of the training.
        sparsity: share of zeros in the pruned layers.
        accuracy: share of correct test images, of the float network.
        efficiency: non-zeros / slots in the pruned layers, as packed.
        cycles, multipliers: of the fastest plan.
        seconds: of training, and of packing and planning.
    """

    pattern: str
    schedule: str
    seed: int
    steps: int
    sparsity: float
    accuracy: float
    efficiency: float
    cycles: int
    multipliers: int
    seconds: tuple[float, float]


def run(pattern: str, schedule: str, seed: int, steps: int) -> Cell:
    """Trains, prunes, packs and plans one network."""
    torch.manual_seed(seed)
    model, began = network(), time.perf_counter()
    schedules: Sequence[Schedule] = ()
    if pattern != "none":
        patterns = dict.fromkeys(LAYERS, PATTERNS[pattern])
        own = {name: PATTERNS[pattern].nearest_sparsity(_weight(model, name).shape, SPARSITY) for name in LAYERS}
        schedules = SCHEDULES[schedule](model, patterns, own, steps, seed)
    train(model, schedules, seed, steps)
    x, y = test_set()
    model.eval()
    with torch.no_grad():
        accuracy = float((model(x).argmax(1) == y).float().mean())
    trained = time.perf_counter()
    packed = hwgen.pack(model, calibration=x[:256].numpy())
    plan = hwgen.make_plan(packed, board=replace(board("ulx3s-85f"), name="benchmark", dsp=MULTIPLIERS))
    layers = [layer for layer in packed.report() if layer.name in LAYERS]
    nonzeros = sum(layer.nonzeros for layer in layers)
    return Cell(
        pattern=pattern,
        schedule=schedule,
        seed=seed,
        steps=steps,
        sparsity=round(1 - nonzeros / sum(_weight(model, name).numel() for name in LAYERS), 4),
        accuracy=round(accuracy, 4),
        efficiency=round(nonzeros / sum(layer.slots for layer in layers), 4),
        cycles=plan.cycles_per_word,
        multipliers=plan.multipliers,
        seconds=(round(trained - began, 1), round(time.perf_counter() - trained, 1)),
    )


def network() -> nn.Sequential:
    """The dense network, (N, 1, 20, 20) -> (N, 10)."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 8, 5, bias=False),
            norm1=nn.BatchNorm2d(8),
            pool1=nn.MaxPool2d(2),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(8, 40, 5, bias=False),
            norm2=nn.BatchNorm2d(40),
            pool2=nn.MaxPool2d(2),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            linear1=nn.Linear(160, 120, bias=False),
            norm3=nn.BatchNorm1d(120),
            relu3=nn.ReLU(),
            linear2=nn.Linear(120, 10),
        )
    )


def train(model: nn.Module, schedules: Sequence[Schedule], seed: int, steps: int) -> None:
    """The loop that a user has, with its three lines for the schedule."""
    images, labels = (torch.from_numpy(part) for part in load_data()[:2])
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, steps)
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        loss = nn.functional.cross_entropy(model(harder(images[chosen], generator)), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.step()
        for schedule in schedules:
            schedule.step()
    for schedule in schedules:
        schedule.finish()


def harder(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (N, 1, 8, 8) at twice the size, each somewhere on a field of 20 x 20 under noise; (N, 1, 20, 20)."""
    large = nn.functional.interpolate(images, size=(UPSCALED, UPSCALED), mode="bilinear")
    field = NOISE * torch.randn(len(images), 1, SIZE, SIZE, generator=generator)
    places = torch.randint(0, SIZE - UPSCALED + 1, (len(images), 2), generator=generator)
    for image, target, (down, right) in zip(large, field, places.tolist(), strict=True):
        target[:, down : down + UPSCALED, right : right + UPSCALED] += image
    return field


@cache
def test_set() -> tuple[Tensor, Tensor]:
    """Images that were not trained with, each five times with other places and noise; the same for all networks."""
    images, labels = (torch.from_numpy(part) for part in load_data()[2:])
    generator = torch.Generator().manual_seed(0)
    return harder(images.repeat(TEST_DRAWS, 1, 1, 1), generator), labels.repeat(TEST_DRAWS)


def _weight(model: nn.Module, name: str) -> Tensor:
    weight = model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight


def summarise(cells: list[Cell]) -> list[dict[str, object]]:
    """Means over seeds, in the order of the tables."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.pattern, cell.schedule), []).append(cell)
    return [
        {
            "pattern": pattern,
            "schedule": schedule,
            "seeds": len(group),
            "sparsity": group[0].sparsity,
            "accuracy": round(mean(cell.accuracy for cell in group), 4),
            "accuracies": [cell.accuracy for cell in group],
            "efficiency": round(mean(cell.efficiency for cell in group), 4),
            "cycles": round(mean(cell.cycles for cell in group)),
            "multipliers": round(mean(cell.multipliers for cell in group)),
        }
        for (pattern, schedule), group in groups.items()
    ]


def print_markdown(rows: list[dict[str, object]]) -> None:
    """A line for each pattern, a column for each schedule."""
    print("Accuracy / packing efficiency / planned cycles.\n")
    print("|", " | ".join(["pattern", *SCHEDULES]), "|")
    print("|---|" + "---:|" * len(SCHEDULES))
    cells = {
        (row["pattern"], row["schedule"]): f"{row['accuracy']:.1%} / {row['efficiency']:.0%} / {row['cycles']:,}"
        for row in rows
    }
    for pattern in PATTERNS:
        print("|", " | ".join([pattern, *(cells.get((pattern, schedule), "") for schedule in SCHEDULES)]), "|")
    print("\nDense:", cells["none", "none"])


def wanted(seeds: int) -> list[tuple[str, str, int]]:
    """(pattern, schedule, seed) of each cell, whole tables one seed after the other."""
    pairs = [("none", "none")]
    for pattern, value in PATTERNS.items():
        # Only patterns without other sparsities leave open what the ramp does before its end.
        fixed = isinstance(value, NofM | Complementary)
        pairs += [(pattern, name) for name in SCHEDULES if fixed or SCHEDULES[name] is not _projected]
    return [(*pair, seed) for seed in range(seeds) for pair in pairs]


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each cell.")] = 2,
    steps: Annotated[int, typer.Option(min=40, help="Of each training.")] = 400,
    cells: Annotated[Path, typer.Option(help="File of finished cells, one a line.")] = Path("build/patterns.jsonl"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Fills the table of patterns and schedules."""
    torch.set_num_threads(1)
    done: dict[tuple[str, str, int], Cell] = {}
    if cells.exists():
        known = [Cell(**json.loads(line)) for line in cells.read_text().splitlines()]
        done = {(cell.pattern, cell.schedule, cell.seed): cell for cell in known if cell.steps == steps}
    cells.parent.mkdir(parents=True, exist_ok=True)
    table = wanted(seeds)
    with terminal.progress() as report:
        for index, key in enumerate(table):
            report("cells", index / len(table))
            if key not in done:
                done[key] = run(*key, steps)
                with cells.open("a") as file:
                    file.write(json.dumps(asdict(done[key])) + "\n")
    rows = summarise([done[key] for key in table])
    if as_json:
        terminal.print_json({"steps": steps, "seeds": seeds, "multiplier_blocks": MULTIPLIERS, "rows": rows})
    else:
        print_markdown(rows)


if __name__ == "__main__":
    typer.run(main)
