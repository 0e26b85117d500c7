"""What the outputs of several models on the same labelled inputs tell: arrays in, figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgen.errors import DataError

# Points that a class may be worse than in the reference model without a warning.
WORSE = 5.0
CALIBRATION_BINS = 15


@dataclass(frozen=True)
class WorseClass:
    """A class that a model gets wrong more often than the reference model does.

    Attributes:
        name: of the class; `inputs` have its label.
        model: the worse one.
        accuracy_reference, accuracy: shares of the class's inputs that are right, in [0, 1].
        points: how much is lost, in percentage points, more than 5.
    """

    name: str
    model: str
    inputs: int
    accuracy_reference: float
    accuracy: float
    points: float


@dataclass(frozen=True)
class ModelFigures:
    """One model.

    Attributes:
        accuracy: share of inputs that are right, in [0, 1].
        interval: (lowest, highest): its 95 % confidence interval (Wilson score) for inputs like these.
        lost: inputs that are wrong here and right in the reference model; `gained` is the reverse.
        accuracy_by_class: right answers / inputs of the class, which is its recall; None without inputs.
        precision_by_class: right answers / answers of the class; None without such answers.
        confusion: inputs by [label][answer].
        confidence_right, confidence_wrong: mean softmax probability of the model's answer where it is right, and where
            it is wrong; None without such inputs.
        calibration_error: expected calibration error: the mean gap between confidence and accuracy over 15 equal bins
            of confidence, weighted by their inputs (Guo et al., "On Calibration of Modern Neural Networks", 2017,
            section 2).
    """

    accuracy: float
    interval: tuple[float, float]
    lost: int
    gained: int
    accuracy_by_class: tuple[float | None, ...]
    precision_by_class: tuple[float | None, ...]
    confusion: tuple[tuple[int, ...], ...]
    confidence_right: float | None
    confidence_wrong: float | None
    calibration_error: float


@dataclass(frozen=True)
class Difference:
    """An input on which the models do not all agree.

    Attributes:
        index: its place among the inputs.
        label: its class.
        answers: by model, the class that it gives.
    """

    index: int
    label: str
    answers: dict[str, str]


@dataclass(frozen=True)
class NoiseFigures:
    """Accuracies on the same inputs with Gaussian noise added.

    Attributes:
        level: the noise's standard deviation / that of all input values.
        accuracy: by model, in [0, 1].
    """

    level: float
    accuracy: dict[str, float]


@dataclass(frozen=True)
class Audit:
    """Everything that was found.

    Attributes:
        worse: classes that lose more than five points against the reference model, the worst first. Read them first.
        reference: name of the model that the others are compared with.
        inputs: how many.
        classes: their names.
        inputs_by_class: how many have its label.
        models: by name, the reference first.
        differences: inputs on which the models do not agree, in order.
        noise: accuracies with added noise; empty where no models were run.
    """

    worse: tuple[WorseClass, ...]
    reference: str
    inputs: int
    classes: tuple[str, ...]
    inputs_by_class: tuple[int, ...]
    models: dict[str, ModelFigures]
    differences: tuple[Difference, ...]
    noise: tuple[NoiseFigures, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare_outputs(
    outputs: Mapping[str, NDArray[np.floating]],
    labels: NDArray[np.integer],
    *,
    classes: Sequence[str] | None = None,
    reference: str | None = None,
) -> Audit:
    """Compares what several models give for the same inputs.

    Args:
        outputs: by model, (N, classes): logits, log-probabilities or probabilities; the largest is the answer, of
            equal ones the first.
        labels: integers (N,): the right classes, counted from 0.
        classes: their names; numbers by default.
        reference: the model that the others are compared with; the first one by default.

    Raises:
        DataError: shapes that do not fit together, labels that no class has, or values that are not finite.
    """
    labels = check_labels(labels)
    count = _check_outputs(outputs, labels)
    names = tuple(str(number) for number in range(count)) if classes is None else tuple(map(str, classes))
    if len(names) != count:
        raise DataError(f"classes: has {len(names)} names, but the models give {count} classes")
    first = next(iter(outputs)) if reference is None else reference
    if first not in outputs:
        raise DataError(f"reference {first!r}: is none of the models, which are {', '.join(outputs)}")
    ordered = {first: outputs[first], **outputs}
    answers = {name: output.argmax(axis=1) for name, output in ordered.items()}
    expected = answers[first] == labels
    models = {name: _judge(output, labels, expected) for name, output in ordered.items()}
    inputs_by_class = tuple(np.bincount(labels, minlength=count).tolist())
    together = np.stack(list(answers.values()))
    different = np.flatnonzero((together != together[0]).any(axis=0))
    return Audit(
        worse=_worse(models, first, names, inputs_by_class),
        reference=first,
        inputs=len(labels),
        classes=names,
        inputs_by_class=inputs_by_class,
        models=models,
        differences=tuple(
            Difference(int(index), names[labels[index]], {name: names[of[index]] for name, of in answers.items()})
            for index in different
        ),
    )


def check_labels(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """The labels as int64; raises DataError unless they are integers (N,) from 0, at least one."""
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or labels.dtype.kind not in "iu":
        found = f"{labels.dtype} {labels.shape}" if isinstance(labels, np.ndarray) else type(labels).__name__
        raise DataError(f"labels: must be a numpy array of integers (N,), not {found}")
    if not len(labels):
        raise DataError("labels: there are none; give at least one labelled input")
    if labels.min() < 0:
        raise DataError(f"labels: contain {labels.min()}; classes are counted from 0")
    return labels.astype(np.int64)


def _check_outputs(outputs: Mapping[str, NDArray[np.floating]], labels: NDArray[np.int64]) -> int:
    """The number of classes that all outputs have."""
    if not outputs:
        raise DataError("audit: there are no models to compare")
    counts: dict[str, int] = {}
    for name, output in outputs.items():
        if output.ndim != 2 or len(output) != len(labels) or output.shape[1] < 2 or output.dtype.kind not in "iuf":
            raise DataError(
                f"model {name!r}: must give numbers ({len(labels)}, classes), at least two classes, "
                f"not {output.dtype} {output.shape}"
            )
        if not np.isfinite(output).all():
            raise DataError(f"model {name!r}: its output contains NaN or infinity; repair the model or the inputs")
        counts[name] = output.shape[1]
    if len(set(counts.values())) > 1:
        given = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(f"audit: the models give different numbers of classes: {given}")
    count = next(iter(counts.values()))
    if labels.max() >= count:
        raise DataError(f"labels: contain {labels.max()}, but the models give {count} classes, counted from 0")
    return count


def _judge(output: NDArray[np.floating], labels: NDArray[np.int64], expected: NDArray[np.bool_]) -> ModelFigures:
    answers, count = output.argmax(axis=1), output.shape[1]
    right = answers == labels
    confusion = np.zeros((count, count), np.int64)
    np.add.at(confusion, (labels, answers), 1)
    hits = confusion.diagonal()
    confidence = _probabilities(output).max(axis=1)
    return ModelFigures(
        accuracy=float(right.mean()),
        interval=_interval(int(right.sum()), len(labels)),
        lost=int((expected & ~right).sum()),
        gained=int((~expected & right).sum()),
        accuracy_by_class=_shares(hits, confusion.sum(axis=1)),
        precision_by_class=_shares(hits, confusion.sum(axis=0)),
        confusion=tuple(map(tuple, confusion.tolist())),
        confidence_right=_mean(confidence[right]),
        confidence_wrong=_mean(confidence[~right]),
        calibration_error=_calibration_error(confidence, right),
    )


def _worse(
    models: dict[str, ModelFigures], reference: str, names: tuple[str, ...], inputs: tuple[int, ...]
) -> tuple[WorseClass, ...]:
    found = []
    for model, figures in models.items():
        pairs = zip(models[reference].accuracy_by_class, figures.accuracy_by_class, strict=True)
        for index, (before, after) in enumerate(pairs):
            if before is not None and after is not None:
                # Rounded, so that exactly five points are not more than five.
                points = round(100.0 * (before - after), 9)
                if points > WORSE:
                    found.append(WorseClass(names[index], model, inputs[index], before, after, points))
    return tuple(sorted(found, key=lambda worse: -worse.points))


def _probabilities(output: NDArray[np.floating]) -> NDArray[np.float64]:
    """Softmax, but for outputs that are probabilities already; log-probabilities are their own logits."""
    values = output.astype(np.float64)
    if (values >= 0).all() and np.allclose(values.sum(axis=1), 1.0, atol=1e-3):
        return values
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    # A bin holds its upper end, as in the paper.
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(right))


def _interval(hits: int, count: int) -> tuple[float, float]:
    """The Wilson score interval, which stays inside [0, 1] and does not vanish where all answers are right."""
    z = 1.959964
    share = hits / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def _shares(parts: NDArray[np.int64], wholes: NDArray[np.int64]) -> tuple[float | None, ...]:
    return tuple(part / whole if whole else None for part, whole in zip(parts.tolist(), wholes.tolist(), strict=True))


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None
