"""An audit for people: what is worse comes first. The JSON object has everything, the tables what fits a screen."""

from __future__ import annotations

import numpy as np

from hwgen import terminal
from hwgen.audit.figures import WORSE, Audit

LISTED = 20


def print_audit(result: Audit) -> None:
    """Prints the audit as tables on standard output."""
    _print_worse(result)
    _print_models(result)
    _print_classes(result)
    _print_noise(result)
    _print_confusions(result)
    _print_differences(result)


def _print_worse(result: Audit) -> None:
    if not result.worse:
        print(f"No class loses more than {WORSE:g} points against {result.reference}.")
        return
    rows = [
        (
            worse.name,
            worse.model,
            worse.inputs,
            _share(worse.accuracy_reference),
            _share(worse.accuracy),
            f"-{worse.points:.1f}",
        )
        for worse in result.worse
    ]
    columns = ("class", "model", "inputs", result.reference, "model's", "points")
    terminal.print_table(f"Classes that lose more than {WORSE:g} points against {result.reference}", columns, rows, 2)


def _print_models(result: Audit) -> None:
    rows = [
        (
            name,
            _share(of.accuracy),
            f"{of.interval[0]:.2%} to {of.interval[1]:.2%}",
            of.lost,
            of.gained,
            _number(of.confidence_right),
            _number(of.confidence_wrong),
            _number(of.calibration_error),
        )
        for name, of in result.models.items()
    ]
    columns = (
        "model",
        "accuracy",
        "95 % interval",
        "lost",
        "gained",
        "confidence if right",
        "if wrong",
        "calibration error",
    )
    terminal.print_table(f"{result.inputs:,} inputs; lost and gained against {result.reference}", columns, rows)


def _print_classes(result: Audit) -> None:
    rows = [
        (
            name,
            result.inputs_by_class[index],
            *(_share(of.accuracy_by_class[index]) for of in result.models.values()),
            *(_share(of.precision_by_class[index]) for of in result.models.values()),
        )
        for index, name in enumerate(result.classes)
    ]
    names = list(result.models)
    columns = ("class", "inputs", *(f"accuracy, {name}" for name in names), *(f"precision, {name}" for name in names))
    terminal.print_table("Each class", columns, rows)


def _print_noise(result: Audit) -> None:
    if result.noise:
        rows = [
            (f"{level.level:g}", *(_share(level.accuracy[name]) for name in result.models)) for level in result.noise
        ]
        terminal.print_table("Accuracy with noise", ("standard deviations of the input", *result.models), rows)


def _print_confusions(result: Audit) -> None:
    counts = {name: np.array(of.confusion) for name, of in result.models.items()}
    together = sum(counts.values(), np.zeros_like(next(iter(counts.values()))))
    np.fill_diagonal(together, 0)
    order = np.argsort(-together, axis=None, kind="stable")[: min(LISTED, int((together > 0).sum()))]
    pairs = np.transpose(np.unravel_index(order, together.shape)).tolist()
    rows = [
        (result.classes[label], result.classes[answer], *(int(of[label, answer]) for of in counts.values()))
        for label, answer in pairs
    ]
    if rows:
        terminal.print_table("Most frequent confusions", ("class", "taken for", *counts), rows, 2)


def _print_differences(result: Audit) -> None:
    count = len(result.differences)
    if not count:
        print("The models give the same answer for every input.")
        return
    more = f"; the first {LISTED} of them, --json has all" if count > LISTED else ""
    print(f"The models differ on {count:,} of {result.inputs:,} inputs{more}.")
    rows = [(of.index, of.label, *(of.answers[name] for name in result.models)) for of in result.differences[:LISTED]]
    terminal.print_table("Where they differ", ("input", "class", *result.models), rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
