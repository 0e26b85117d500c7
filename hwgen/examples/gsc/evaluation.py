"""What trained networks make of recordings of speakers whom they never heard."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import host
from hwgen.audit import compare_outputs
from hwgen.examples.gsc import training
from hwgen.examples.gsc.recordings import CLASSES, Recordings, never_heard
from hwgen.examples.gsc.trained import Trained
from hwgen.generator import write
from hwgen.plan import make_plan


@dataclass(frozen=True)
class Evaluation:
    """Accuracies in percent.

    Attributes:
        recordings, speakers: evaluated; `skipped` recordings are of speakers whom training heard.
        accuracy_dense, accuracy_sparse: of the float networks.
        accuracy_int8: of the packed network, by the arithmetic of every device.
        accuracy_hardware: of `hardware_words` of the recordings, in the simulated hardware; None for no words.
        hardware_equals_int8: whether every output of the hardware was that of the arithmetic.
        interval: half the 95 % interval of `accuracy_int8` (Wilson score).
        worse: classes that are more than five points worse than in the dense network, first of all to be read.
        per_class: by class, its recordings and the accuracy of each network.
    """

    worse: tuple[str, ...]
    recordings: int
    speakers: int
    skipped: int
    accuracy_dense: float
    accuracy_sparse: float
    accuracy_int8: float
    accuracy_hardware: float | None
    hardware_words: int
    hardware_equals_int8: bool | None
    interval: float
    per_class: dict[str, dict[str, Any]]


def evaluate(
    trained: Trained,
    recordings: Recordings,
    *,
    hardware_words: int | None = None,
    report: Callable[[str, float | None], None] = lambda message, share: None,
) -> Evaluation:
    """Evaluates the networks of a training.

    Args:
        trained: the networks.
        recordings: of which those of known speakers are left out.
        hardware_words: how many to run through simulated hardware; all by default.
        report: told what is done.

    Raises:
        DataError: nothing is left of a class.
    """
    heard = set(trained.record["speakers"])
    new = never_heard(recordings, heard)
    report("computing spectrograms", None)
    x, labels = training.spectrograms(new), new.labels
    report("evaluating", None)
    integers = _on_a_device(trained, x)
    outputs = {
        "dense": training.predict(trained.dense, x),
        "sparse": training.predict(trained.sparse, x),
        "int8": integers,
    }
    audit = compare_outputs(outputs, labels, classes=CLASSES)
    words = len(x) if hardware_words is None else min(hardware_words, len(x))
    # Evenly over the classes, which follow each other.
    chosen = np.linspace(0, len(x) - 1, words).round().astype(int) if words else np.zeros(0, int)
    hardware = _in_hardware(trained, x[chosen], report) if words else None
    accuracy = {name: 100 * model.accuracy for name, model in audit.models.items()}
    low, high = audit.models["int8"].interval
    return Evaluation(
        worse=tuple(one.name for one in audit.worse if one.model == "int8"),
        recordings=len(new),
        speakers=len(set(new.speakers.tolist())),
        skipped=len(recordings) - len(new),
        accuracy_dense=accuracy["dense"],
        accuracy_sparse=accuracy["sparse"],
        accuracy_int8=accuracy["int8"],
        accuracy_hardware=None if hardware is None else _percent(hardware.argmax(axis=1) == labels[chosen]),
        hardware_words=words,
        hardware_equals_int8=None if hardware is None else bool(np.array_equal(hardware, integers[chosen])),
        interval=50 * (high - low),
        per_class={
            name: {"recordings": audit.inputs_by_class[label]}
            | {kind: 100 * (model.accuracy_by_class[label] or 0.0) for kind, model in audit.models.items()}
            for label, name in enumerate(CLASSES)
        },
    )


def _percent(right: NDArray[np.bool_]) -> float:
    return 100.0 * float(right.mean())


def _on_a_device(trained: Trained, x: NDArray[np.float32]) -> NDArray[np.float32]:
    with tempfile.TemporaryDirectory(prefix="hwgen-gsc-") as scratch:
        path = Path(scratch) / "network.hwpack"
        trained.packed.save(path)
        with host.open(path, device="cpu") as accelerator:
            return accelerator.run(x)


def _in_hardware(
    trained: Trained, x: NDArray[np.float32], report: Callable[[str, float | None], None]
) -> NDArray[np.float32]:
    from boards.catalogue import board

    with tempfile.TemporaryDirectory(prefix="hwgen-gsc-") as scratch:
        folder = Path(scratch) / "bundle"
        report("generating hardware", None)
        write(make_plan(trained.packed, board=board("ulx3s-85f"), mode="sparse-sparse"), trained.packed, folder)
        report("compiling the simulation", None)
        outputs = []
        with host.open(folder, device="sim") as accelerator:
            for start in range(0, len(x), 64):
                outputs.append(accelerator.run(x[start : start + 64]))
                report("simulating hardware", (start + len(outputs[-1])) / len(x))
        return np.concatenate(outputs)
