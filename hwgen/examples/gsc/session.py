"""A whole training: both networks, their record and their files."""

from __future__ import annotations

import functools
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import hwgen
from hwgen.errors import DataError
from hwgen.examples.gsc import networks, training
from hwgen.examples.gsc.recordings import CLASSES, Recordings, split
from hwgen.examples.gsc.trained import PHASES, Trained, finished_phases, keep_phase
from hwgen.examples.gsc.tuning import fine_tune

CALIBRATION = 512
# Epochs; watching takes a tenth of one.
WATCHED_EVERY = 5


def train_both(
    recordings: Recordings,
    *,
    epochs: int,
    seed: int,
    device: str,
    out: Path,
    report: Callable[[str, float | None], None],
) -> Trained:
    """Trains on four fifths of the speakers, watches another tenth and writes `out`.

    Both networks begin as a dense one that was trained for two phases, and have a third, as long as each of these. One
    goes on dense; the other is pruned, learns the outputs of what it began as and ends in the arithmetic of the hardware.
    Called again after an interruption, it does not repeat a phase that is done.

    Args:
        recordings: of all speakers.
        epochs, seed, device: as `training.Recipe` and `training.fit` take them.
        out: folder for the networks; `log.txt` in it has a line an epoch.
        report: told what is done and which share of it.
    """
    parts = split(recordings)
    if min(len(parts.validation), len(parts.test)) == 0 or len(parts.train) < training.Recipe().batch:
        count = len(set(recordings.speakers.tolist()))
        raise DataError(
            f"{len(recordings)} recordings of {count} speakers are too few to be split by speaker: "
            "a batch to train on and some of each other group are needed"
        )
    recipe = training.Recipe(epochs=epochs, seed=seed, bfloat16=training.has_bfloat16(device))
    out.mkdir(parents=True, exist_ok=True)
    watched = training.spectrograms(parts.validation)
    # What decides the networks, beside the code: an interrupted training goes on behind what is done.
    fixed = {"recipe": asdict(recipe), "train": len(parts.train)}
    trained, seconds = finished_phases(out, fixed)

    def make(name: str) -> nn.Sequential:
        if name == "start":
            return networks.dense(seed, recipe.dropout)
        network = networks.sparse(seed, recipe.boost) if name == "sparse" else networks.dense(seed, recipe.dropout)
        # Of the k-WTA's duty cycles the dense network knows nothing.
        network.load_state_dict(trained["start" if name == "teacher" else "teacher"].state_dict(), strict=False)
        return network

    last = max(1, round(recipe.tuning * epochs))
    epochs_of = dict.fromkeys(PHASES, epochs) | {"sparse": max(1, epochs - last), "int8": last}

    def recipe_of(name: str) -> training.Recipe:
        return replace(recipe, epochs=epochs_of[name])

    rng = np.random.default_rng([seed, 2])
    chosen = np.zeros(len(parts.train), bool)
    chosen[rng.choice(len(parts.train), min(CALIBRATION, len(parts.train)), replace=False)] = True
    calibration = training.spectrograms(parts.train.where(chosen))
    with (out / "log.txt").open("a" if trained else "w") as log:

        def hooks(name: str) -> dict[str, Any]:
            number = PHASES.index(name)

            def told(message: str, share: float | None) -> None:
                report(f"{message}: {name}", None if share is None else (number + share) / len(PHASES))

            def epoch_end(epoch: int, network: nn.Module, loss: float) -> None:
                log.write(f"{name} epoch {epoch} loss {loss:.4f}")
                if epoch % WATCHED_EVERY == 0 or epoch == recipe_of(name).epochs:
                    right = _right(network, watched, parts.validation, "cpu" if name == "int8" else device)
                    log.write(f" validation {right:.2%}")
                log.write("\n")
                log.flush()

            return {"phase": number, "report": told, "epoch_end": epoch_end}

        for name in PHASES[:-1]:
            if name in trained:
                continue
            start = time.perf_counter()
            trained[name] = training.fit(
                functools.partial(make, name),
                parts.train,
                recipe_of(name),
                patterns=networks.PATTERNS if name == "sparse" else None,
                teacher=trained["teacher"] if name == "sparse" else None,
                device=device,
                **hooks(name),
            )
            seconds[name] = time.perf_counter() - start
            keep_phase(out, name, trained[name], seconds, fixed)
        start = time.perf_counter()
        tuned = fine_tune(
            trained["sparse"], parts.train, recipe_of("int8"), calibration, teacher=trained["teacher"], **hooks("int8")
        )
        seconds["int8"] = time.perf_counter() - start
    judged = {"dense": trained["dense"], "sparse": trained["sparse"], "int8": tuned}
    validation = {name: 100 * _right(network, watched, parts.validation, "cpu") for name, network in judged.items()}
    record: dict[str, Any] = {
        "recipe": asdict(recipe),
        "recordings": {"train": len(parts.train), "validation": len(parts.validation), "test": len(parts.test)},
        "classes": list(CLASSES),
        "validation_accuracy": validation,
        "seconds": seconds,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {device}",
        "torch": torch.__version__,
        "speakers": sorted({*parts.train.speakers.tolist(), *parts.validation.speakers.tolist()}),
    }
    result = Trained(trained["dense"], trained["sparse"], hwgen.pack(tuned), record)
    result.save(out)
    return result


def _right(network: nn.Module, x: np.ndarray, recordings: Recordings, device: str) -> float:
    """Share of recordings that the network gets right; it is left in the mode it was in."""
    training_mode = network.training
    with torch.no_grad():
        outputs = [network.eval()(torch.from_numpy(part).to(device)).cpu() for part in np.array_split(x, 4)]
    network.train(training_mode)
    return float((torch.cat(outputs).argmax(dim=1).numpy() == recordings.labels).mean())
