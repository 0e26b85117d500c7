"""The resource model against synthesis: what a plan says it takes of an FPGA, and what Yosys counts.

    python -m benchmarks.resource_model fit        # synthesises single stages, writes hwgen/plan/resource_coefficients.py
    python -m benchmarks.resource_model check      # synthesises whole bundles of networks that were not used in the fit
    python -m benchmarks.resource_model check --counted benchmarks/results/gsc_dense_ultrascale.json

`fit` keeps the synthesised stages in benchmarks/results/resource_model_samples.jsonl and synthesises what is not there:
with `--again` all of them, where components have changed. `check` writes benchmarks/results/resource_model.json.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from scipy.optimize import nnls

from benchmarks import resource_corpus as corpus
from benchmarks import resource_rare_stages as rare_stages
from boards.synthesis import counts
from hwgen import terminal
from hwgen.errors import HwgenError, InputError
from hwgen.format.packed import PackedNetwork
from hwgen.generator import write
from hwgen.plan import MODES, Plan
from hwgen.plan.resource_primitives import FAMILIES
from hwgen.plan.resource_structure import structure
from hwgen.plan.resources import total
from hwgen.plan.stages import Stage
from rtl_templates.target import target_of

RESULTS = Path(__file__).parent / "results"
SAMPLES = RESULTS / "resource_model_samples.jsonl"
RESULT = RESULTS / "resource_model.json"
COEFFICIENTS = Path(__file__).parent.parent / "hwgen" / "plan" / "resource_coefficients.py"

# Networks of the fit have the numbers from 0 on, those of the check from here on.
FIRST_CHECKED = 1000

# Errors are relative to the LUTs of a stage, but of a small one not more exact than this.
LEAST_LUTS = 30
# How much a coefficient is drawn towards a LUT a unit, which decides where the samples do not.
PRIOR = 0.02
# The same for what a stage has in any case, whose size nothing tells.
FREE = PRIOR / 20

# What planned figures may be off by: a share of what was synthesised, or a number where that is small.
SHARE, SMALL, SMALL_NUMBER = 0.15, 20, 3

app = typer.Typer(add_completion=False, help=__doc__)


@dataclass(frozen=True)
class Check:
    """A bundle's planned and synthesised resources.

    Attributes:
        network: its name.
        mode: of the plan.
        family: of FPGAs.
        planned, synthesised: lut, dsp, block_ram, ultra_ram.
        within: whether each is as near as it should be.
    """

    network: str
    mode: str
    family: str
    planned: dict[str, float]
    synthesised: dict[str, float]
    within: bool


def near(planned: float, synthesised: float) -> bool:
    """Whether a planned figure is as near to the synthesised one as the model promises."""
    return abs(planned - synthesised) <= (SMALL_NUMBER if synthesised < SMALL else SHARE * synthesised)


@app.command("fit")
def fit_command(
    networks: Annotated[int, typer.Option(help="Random networks whose stages are synthesised.")] = 16,
    unrolled: Annotated[int, typer.Option(help="Networks of which unrolled layers are, which are rare.")] = 75,
    rare: Annotated[int, typer.Option(help="Random stages of each kind that networks seldom have.")] = 16,
    again: Annotated[bool, typer.Option("--again", help="Synthesise all of them again.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the errors as one JSON object.")] = False,
) -> None:
    """Synthesise single stages and fit the coefficients."""
    if again:
        SAMPLES.unlink(missing_ok=True)
    samples = corpus.Samples(SAMPLES)
    with terminal.progress() as report:
        most = max(networks, rare, unrolled)
        for seed in range(most):
            report("synthesising stages", seed / most)
            for family in FAMILIES:
                found = list(rare_stages.rare(seed, family)) if seed < rare else []
                if seed == 0:
                    found += corpus.serial(family)
                if seed < max(networks, unrolled) and (plan := corpus.planned(seed, family)) is not None:
                    stages = list(corpus.of_plan(*plan))
                    found += [pair for pair in stages if seed < networks or pair[0].kind == "unrolled"]
                for stage, component in found:
                    samples.measure(stage, component, family)
    coefficients, errors = fit(samples.samples)
    COEFFICIENTS.write_text(_source(coefficients))
    if as_json:
        terminal.print_json(errors)
        return
    columns = ("family", "kind", "stages", "LUTs: rms", "most", "DSPs differ", "blocks differ")
    rows = [
        (family, kind, e["stages"], f"{e['rms']:.1%}", f"{e['most']:.1%}", e["dsp"], e["block_ram"])
        for family, kinds in errors.items()
        for kind, e in kinds.items()
    ]
    terminal.print_table("Errors of the fit", columns, rows, left=2)


Coefficients = dict[str, dict[str, dict[str, float]]]


def fit(samples: Iterable[corpus.Sample]) -> tuple[Coefficients, dict[str, Any]]:
    """Coefficients by family and kind, none negative, and what they leave."""
    groups = defaultdict(list)
    for sample in samples:
        found = structure(sample.stage, sample.family, target_of(sample.family))
        groups[sample.family, found.kind].append((sample, found))
    coefficients: Coefficients = {family: {} for family in FAMILIES}
    errors: dict[str, Any] = {family: {} for family in FAMILIES}
    for (family, kind), group in sorted(groups.items()):
        names = sorted({name for _, found in group for name in found.amounts})
        amounts = np.array([[found.amounts.get(name, 0.0) for name in names] for _, found in group])
        logic = np.array([sample.lut - found.memory.lut for sample, found in group])
        weights = 1 / np.maximum([sample.lut for sample, _ in group], LEAST_LUTS)
        drawn = np.array([FREE if name == "control" else PRIOR for name in names])
        prior = np.diag(drawn * (amounts * weights[:, None]).mean(axis=0))
        best, _ = nnls(
            np.concatenate([amounts * weights[:, None], prior]),
            np.concatenate([logic * weights, prior.sum(axis=1)]),
        )
        coefficients[family][kind] = {
            name: round(float(x), 3) for name, x in zip(names, best, strict=True) if x >= 5e-4
        }
        left = (amounts @ best - logic) * weights
        errors[family][kind] = {
            "stages": len(group),
            "rms": float(np.sqrt((left**2).mean())),
            "most": float(np.abs(left).max()),
            "dsp": sum(sample.dsp != found.dsp for sample, found in group),
            "block_ram": sum(sample.block_ram != found.memory.blocks for sample, found in group),
        }
    return coefficients, errors


def _source(coefficients: Coefficients) -> str:
    lines = [
        '"""LUTs a unit of each amount of logic in a stage; written by `python -m benchmarks.resource_model fit`."""',
        "",
        "COEFFICIENTS: dict[str, dict[str, dict[str, float]]] = {",
    ]
    for family, kinds in coefficients.items():
        lines.append(f'    "{family}": {{')
        for kind, values in kinds.items():
            lines.append(f'        "{kind}": {{')
            lines += [f'            "{name}": {value},' for name, value in values.items()]
            lines.append("        },")
        lines.append("    },")
    return "\n".join([*lines, "}", ""])


@app.command("check")
def check_command(
    family: Annotated[list[str] | None, typer.Option(help="ecp5 or ultrascale+; may be repeated; both.")] = None,
    mode: Annotated[list[str] | None, typer.Option(help="May be repeated; all.")] = None,
    networks: Annotated[int, typer.Option(help="Random networks, in each mode.")] = 3,
    counted: Annotated[
        list[Path] | None, typer.Option(help="Results of gsc_hardware --synthesise instead; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Synthesise whole bundles and compare."""
    known = json.loads(RESULT.read_text()) if RESULT.exists() else []
    try:
        with terminal.progress() as report:
            found = [check for path in counted or () for check in compare_counted(path)]
            for one in () if counted else family or FAMILIES:
                for name, packed, plan in _bundles(networks, mode or [m for m in MODES if m != "auto"], one):
                    report(f"{name} {plan.mode} {one}", None)
                    found.append(compare(name, packed, plan))
    except HwgenError as error:
        terminal.say(f"resource_model: {error}")
        sys.exit(error.exit_code)
    fresh = {(c.network, c.mode, c.family) for c in found}
    kept = [entry for entry in known if (entry["network"], entry["mode"], entry["family"]) not in fresh]
    content = sorted([*kept, *map(asdict, found)], key=lambda e: (e["network"], e["mode"], e["family"]))
    RESULT.write_text(json.dumps(content, indent=2) + "\n")
    if as_json:
        terminal.print_json([asdict(check) for check in found])
    else:
        _print(found)
    if not all(check.within for check in found):
        sys.exit(1)


def _bundles(networks: int, modes: Sequence[str], family: str) -> Iterator[tuple[str, PackedNetwork, Plan]]:
    for mode in modes:
        count = 0
        for seed in range(FIRST_CHECKED, 2 * FIRST_CHECKED):
            if count == networks:
                break
            if corpus.MODES[seed % len(corpus.MODES)] != mode:
                continue
            if (found := corpus.planned(seed, family)) is not None:
                count += 1
                yield f"random {seed}", *found


def compare(name: str, packed: PackedNetwork, plan: Plan) -> Check:
    """Synthesises a plan's bundle for its family."""
    with tempfile.TemporaryDirectory(prefix="hwgen-resources-") as folder:
        bundle = write(plan, packed, Path(folder) / "bundle")
        found = asdict(counts(bundle.path / f"{bundle.manifest.top}.v", bundle.manifest.top, plan.family))
    return _check(name, plan.mode, plan.family, plan.stages, plan.ultra_ram, found)


def compare_counted(path: Path) -> Iterator[Check]:
    """What `gsc_hardware --synthesise` counted, and what the model says of the same stages."""
    try:
        result = json.loads(path.read_text())
        for family, counted in result["resources"].items():
            plan = counted["plan"]
            stages = [corpus.stage_of(stage) for stage in plan["stages"]]
            name = f"gsc on {result['board']}, {plan['cycles_per_word']} cycles"
            yield _check(name, result["mode"], family, stages, bool(plan.get("ultra_ram")), counted)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a result of gsc_hardware --synthesise --json: {error}") from error


def _check(
    name: str, mode: str, family: str, stages: Sequence[Stage], ultra_ram: bool, counted: Mapping[str, Any]
) -> Check:
    taken = asdict(total(stages, family, ultra_ram=ultra_ram))
    taken["lut"] = round(taken["lut"])
    synthesised = {what: counted[what] for what in taken}
    within = all(near(taken[what], synthesised[what]) for what in synthesised)
    return Check(name, mode, family, taken, synthesised, within)


def _print(found: Sequence[Check]) -> None:
    rows = [
        (
            c.network,
            c.mode,
            c.family,
            *(f"{c.planned[what]:g} / {c.synthesised[what]:g}" for what in c.planned),
            c.within,
        )
        for c in found
    ]
    columns = ("network", "mode", "family", "LUT", "DSP", "block RAM", "UltraRAM", "near")
    terminal.print_table("Planned / synthesised", columns, rows, left=3)


if __name__ == "__main__":
    app()
