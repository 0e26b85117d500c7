"""From seconds to figures, ratios and tables."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cpu.measure import Form, Measured
from hwgen import terminal

# What decides which kernels an engine has, beside the number of cores.
_FEATURES = ("avx2", "avxvnni", "avx512f", "avx512bw", "avx512vbmi", "avx512vnni", "avx512bf16", "amx-int8", "neon")
MICRO = 1e6


@dataclass(frozen=True)
class Spread:
    """Of the seconds of all calls, in microseconds: the median, and what a tenth of the calls is under and over."""

    median: float
    p10: float
    p90: float


@dataclass(frozen=True)
class Figures:
    """One form.

    Attributes:
        engine, form: which.
        latency_us: of a call with one word, on one core.
        batch_us: of a call with a batch, on all cores; None where it was not measured.
        throughput: words a second at the median of these, or None.
    """

    engine: str
    form: str
    latency_us: Spread
    batch_us: Spread | None
    throughput: float | None


def machine() -> dict[str, Any]:
    """What the figures depend on: the processor, the cores that this process may use, and what else runs."""
    import llvmlite.binding

    features = llvmlite.binding.get_host_cpu_features()
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "instruction_sets": [name for name in _FEATURES if features.get(name)],
        "load": round(os.getloadavg()[0], 1),
    }


def figures(latency: Measured, throughput: Measured | None, batch: int) -> list[Figures]:
    """One row for each form that was measured."""
    rows = []
    for form, seconds in latency.seconds.items():
        batches = throughput.seconds.get(form) if throughput else None
        spread = _spread(batches) if batches else None
        rate = round(batch * MICRO / spread.median, 1) if spread else None
        rows.append(Figures(form.engine, form.name, _spread(seconds), spread, rate))
    return rows


def network_ratios(rows: Sequence[Figures], own: Form) -> dict[str, Any]:
    """How many times faster hwgen is than others; None where one was not measured."""
    mine = _find(rows, own)
    peers = [row for row in rows if row.engine != "hwgen"]
    fastest = min(peers, key=_latency, default=None)
    widest = max((row for row in peers if row.throughput), key=_throughput, default=None)
    return {
        "ratio_vs_ort_fp32_dense": _ratio(_find(rows, Form("onnxruntime", "fp32")), mine),
        "ratio_vs_ort_fp32_k_winners": _ratio(_find(rows, Form("onnxruntime", "fp32, k-winners")), mine),
        "best_engine": str(Form(fastest.engine, fastest.form)) if fastest else None,
        "ratio_vs_best_engine": _ratio(fastest, mine),
        "throughput_best_engine": str(Form(widest.engine, widest.form)) if widest else None,
        "throughput_ratio_vs_best_engine": _ratio(mine, widest, _throughput),
    }


def layer_ratios(rows: Sequence[Figures], own: Form, own_dense: Form, dense_alone: Form) -> dict[str, Any]:
    """How many times faster hwgen is than its dense path behind the k-WTA, and that than ONNX Runtime without it."""
    dense, alone = _find(rows, own_dense), _find(rows, dense_alone)
    ort = _find(rows, Form("onnxruntime", "int8"))
    return {
        "ratio_vs_own_dense": _ratio(dense, _find(rows, own)),
        "own_dense_vs_ort_int8": _ratio(ort, alone),
        "throughput_ratio_vs_own_dense": _ratio(_find(rows, own), dense, _throughput),
        "throughput_own_dense_vs_ort_int8": _ratio(alone, ort, _throughput),
    }


def print_tables(result: Mapping[str, Any], rows: Sequence[Figures]) -> None:
    """The same figures for people, on standard output."""
    nested = {"machine", "versions", "forms", "absent", "calls"}
    about = {**result["machine"], **{name: value for name, value in result.items() if name not in nested}}
    terminal.print_table(
        "Measured", ("", ""), [(name.replace("_", " "), _shown(value)) for name, value in about.items()]
    )
    columns = ("engine", "form", "us a word, one core", "p10", "p90", "words/s, all cores")
    table = [
        (
            f"{row.engine} {result['versions'][row.engine]}",
            row.form,
            *(f"{value:,.1f}" for value in (row.latency_us.median, row.latency_us.p10, row.latency_us.p90)),
            None if row.throughput is None else f"{row.throughput:,.0f}",
        )
        for row in sorted(rows, key=_latency)
    ]
    terminal.print_table("Fastest first", columns, table, left=2)
    for name, reason in result["absent"].items():
        print(f"absent: {name}: {reason}")


def _spread(seconds: Sequence[float]) -> Spread:
    median, p10, p90 = (round(float(value) * MICRO, 2) for value in np.percentile(seconds, (50, 10, 90)))
    return Spread(median, p10, p90)


def _find(rows: Sequence[Figures], form: Form) -> Figures | None:
    return next((row for row in rows if (row.engine, row.form) == (form.engine, form.name)), None)


def _latency(row: Figures) -> float:
    return row.latency_us.median


def _throughput(row: Figures) -> float:
    return row.throughput or 0.0


def _ratio(above: Figures | None, below: Figures | None, figure: Callable[[Figures], float] = _latency) -> float | None:
    if above is None or below is None or not figure(above) or not figure(below):
        return None
    return round(figure(above) / figure(below), 3)


def _shown(value: Any) -> object:
    return ", ".join(value) or "none" if isinstance(value, list) else value


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
