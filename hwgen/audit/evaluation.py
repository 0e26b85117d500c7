"""Runs models on labelled inputs, as they are and with noise, and compares what they give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hwgen.audit.figures import Audit, NoiseFigures, check_labels, compare_outputs
from hwgen.audit.predictors import Predictor
from hwgen.errors import DataError, InputError

NOISE_LEVELS = (0.1, 0.2, 0.5, 1.0)
BATCH = 64


def audit(
    models: Mapping[str, Predictor],
    x: NDArray[np.floating],
    labels: NDArray[np.integer],
    *,
    classes: Sequence[str] | None = None,
    reference: str | None = None,
    noise: Sequence[float] = NOISE_LEVELS,
    seed: int = 0,
    report: Callable[[str, float | None], None] = lambda message, share: None,
) -> Audit:
    """Evaluates models on the same labelled inputs.

    Args:
        models: by name, functions from float32 (N, ...) to (N, classes); `predictor` makes them of modules, packed
            networks and files.
        x: float32 or float64 (N, ...), finite.
        labels: integers (N,): the right classes, counted from 0.
        classes: their names; numbers by default.
        reference: the model that the others are compared with; the first one by default.
        noise: levels of added Gaussian noise, in standard deviations of all values of x. All models and levels get
            the same noise, only scaled.
        seed: of the noise.
        report: told what runs, and the share of it that is done.

    Raises:
        DataError: inputs, labels and outputs that do not fit together or are not finite.
        InputError: a level of noise that is negative or not finite.
    """
    if not isinstance(x, np.ndarray) or x.ndim < 2 or x.dtype.kind != "f":
        found = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise DataError(f"inputs: must be a float32 numpy array, batch first, not {found}")
    if len(x) != len(check_labels(labels)):
        raise DataError(f"inputs: there are {len(x)}, but {len(labels)} labels; every input needs one")
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    if not np.isfinite(x).all():
        raise DataError("inputs: contain NaN or infinity; every value must be a finite float32")
    for level in noise:
        if not (np.isfinite(level) and level >= 0):
            raise InputError(f"noise: must be levels of 0 and more, not {level}")
    clean = {name: _run(model, x, name, report) for name, model in models.items()}
    result = compare_outputs(clean, labels, classes=classes, reference=reference)
    unit = np.random.default_rng(seed).standard_normal(x.shape, np.float32) * x.std(dtype=np.float64).astype(np.float32)
    figures = []
    for level in noise:
        noisy = x + np.float32(level) * unit
        right = {
            name: _run(models[name], noisy, f"{name}, noise {level:g}", report).argmax(axis=1) == labels
            for name in result.models
        }
        figures.append(NoiseFigures(float(level), {name: float(of.mean()) for name, of in right.items()}))
    return replace(result, noise=tuple(figures))


def _run(
    model: Predictor, x: NDArray[np.float32], name: str, report: Callable[[str, float | None], None]
) -> NDArray[np.floating]:
    parts = []
    for first in range(0, len(x), BATCH):
        report(name, first / len(x))
        try:
            parts.append(np.asarray(model(x[first : first + BATCH])))
        except DataError as error:
            raise DataError(f"model {name!r}: {error}") from error
    return np.concatenate(parts)
