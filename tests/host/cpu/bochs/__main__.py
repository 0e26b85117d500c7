"""The machine code of the AVX-512 path, run on a processor that Bochs emulates, against the reference.

    apt-get install --no-install-recommends bochs bochs-term bochsbios vgabios gcc binutils
    python -m tests.host.cpu.bochs --json > benchmarks/results/cpu_avx512_bochs.json

It needs no processor with AVX-512. Each network is compiled as `host.cpu` compiles it on a processor that LLVM knows,
and linked into a program that boots without an operating system (boot.s, guest.c); what that prints is compared here,
bit for bit: integers, real values, and that nothing was written behind them. Of speed it tells nothing.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import llvmlite.binding as llvm
import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks import gsc_network
from host import reference
from host.cpu import choice
from host.cpu.compiler import compiled
from host.cpu.isa import PATHS
from host.cpu.plan import Plan, Planner
from host.cpu.program import FLOATS, INTEGERS
from hwgen import terminal
from hwgen.errors import HwgenError
from hwgen.format.io import dequantise_output, quantise_input
from hwgen.format.network import IntegerNetwork
from tests.host.cpu.bochs import machine
from tests.host.cpu.test_networks import NETWORKS, words
from tests.random_networks import random_network

ISA = PATHS["avx512"]
# LLVM's names of some processors that have what the path needs.
PROCESSORS = ("icelake-server", "sapphirerapids", "znver4")
# As guest.c has it.
GUARD, REFUSED = b"\xaa" * 64, b"\xff" * 4
COUNTED = ("vpdpbusd", "vpdpwssd", "vpermb", "vpermi2b", "vpermt2b")


FORMS = {
    "chosen": choice.best,
    "dense": choice.dense,
    "permuted": choice.wherever_possible("slot"),
    "permuted, two tables": choice.wherever_possible("pair_slot"),
    "listed": choice.wherever_possible("pair"),
}


@dataclass(frozen=True, eq=False)
class Case:
    """A network, words, and what must come out.

    Attributes:
        name: of the network.
        network: to be compiled.
        plans: the different ones, by the form that they were made for.
        words: by function: uint8 as the machine code takes integers, and float32.
        expected: by function: the reference's int32 and float32.
    """

    name: str
    network: IntegerNetwork
    plans: dict[str, Plan]
    words: dict[str, NDArray]
    expected: dict[str, NDArray]


def networks(count: int, seed: int) -> Iterator[tuple[str, IntegerNetwork]]:
    """Those of test_networks.py and random ones, with scales that are not 1, and the trained keyword spotter.

    Every second random one is wide: several vectors of 16 channels.
    """
    drawn = {f"random {n}": random_network(n, max_channels=100 if n % 2 else 12) for n in range(seed, seed + count)}
    chosen = NETWORKS | drawn
    for number, (name, network) in enumerate(chosen.items()):
        rng = np.random.default_rng(number)
        source = replace(network.input, scale=float(rng.uniform(0.005, 0.1)))
        yield name, replace(network, input=source, output_scale=rng.random(len(network.output_scale)))
    yield "keyword spotter", gsc_network.network(None).network


def case_of(name: str, network: IntegerNetwork, seed: int) -> Case:
    plans: dict[tuple[type, ...], tuple[str, Plan]] = {}
    for form, choose in FORMS.items():
        plan = Planner(network, ISA, choose).plan()
        plans.setdefault(tuple(type(step) for step in plan.steps), (form, plan))
    x = words(network, 9, seed)
    # Nothing of one word is left for the next, in whichever order they come.
    x, real = np.concatenate([x, x[::-1]]), reals(network, seed)
    quantised = reference.run_int(network, quantise_input(network.input, real))
    return Case(
        name,
        network,
        dict(plans.values()),
        {INTEGERS: (x + (128 if network.input.signed else 0)).astype(np.uint8), FLOATS: real},
        {
            INTEGERS: reference.run_int(network, x).astype(np.int32),
            # A head is no part of the machine code.
            FLOATS: dequantise_output(replace(network, head=None), quantised),
        },
    )


def reals(network: IntegerNetwork, seed: int) -> NDArray[np.float32]:
    """Values that saturate, that round up and down at .5, and infinite ones."""
    scale, rng = network.input.scale, np.random.default_rng(seed)
    x = (100 * scale * rng.normal(size=(6, *network.input.shape))).astype(np.float32)
    x[1] = scale * (rng.integers(-128, 255, network.input.shape) + 0.5)
    x[2].flat[:4] = np.array([np.inf, -np.inf, 1e30, -0.0])[: x[2].size]
    return x


def build(cases: list[Case], cpu: str, folder: Path) -> None:
    """Makes the file `program`, compiled for that processor, which calls each plan's functions in turn."""
    calls, contents, objects = [], [], ["data.o"]

    def data(label: str, values: NDArray, before: str = "") -> None:
        values.tofile(folder / f"{label}.bin")
        contents.append(f'{before}\n{label}: .incbin "{label}.bin"')

    for number, case in enumerate(cases):
        # Words lie anywhere, as a caller's do.
        for function, values in case.words.items():
            data(f"words_of_{function}_{number}", values, ".byte 0")
        for form, plan in case.plans.items():
            own = f"{number}_{form}"
            made = compiled(plan, case.network.output_scale, ISA, cpu)
            (folder / f"{own}.o").write_bytes(made.machine_code)
            renamed = [f"--redefine-sym={function}={function}_{own}" for function in case.words]
            machine.run(folder, "objcopy", *renamed, f"{own}.o")
            objects.append(f"{own}.o")
            data(f"block_{own}", made.block, ".balign 64")
            data(f"workspace_{own}", made.workspace)
            for function, values in case.words.items():
                calls.append(
                    f".quad {function}_{own}, words_of_{function}_{number}, block_{own}, workspace_{own}, "
                    f"{len(values)}, {made.workspace.size}, {case.expected[function].nbytes}"
                )
    lines = [".data", ".globl calls, calls_end", "calls:", *calls, "calls_end:", *contents, ""]
    (folder / "data.s").write_text("\n".join(lines))
    machine.run(folder, "as", "data.s", "-o", "data.o")
    machine.link(folder, objects)


def outcomes(cases: list[Case], printed: bytes) -> dict[str, str]:
    """By program: "equal" if every bit is right, "differing", or "refused" for an instruction that Bochs lacks."""
    found, place = {}, 0
    for case in cases:
        for form in case.plans:
            name = f"{case.name}, {form}"
            found[name] = "equal"
            for values in case.expected.values():
                # The call's result is 0: no word has a NaN.
                wanted = bytes(4) + values.tobytes() + GUARD
                given = printed[place : place + len(wanted)]
                place += len(wanted)
                if given != wanted and found[name] != "differing":
                    found[name] = "refused" if given[:4] == REFUSED else "differing"
    return found


def measured(cases: list[Case], cpu: str, model: str, limit: float) -> dict:
    """Of the code for one processor."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wrong = machine.mistakes(folder, model)
        build(cases, cpu, folder)
        changed = machine.cancel(folder, wrong)
        instructions = machine.instructions(folder, "linked")
        found = outcomes(cases, machine.emulate(folder, model, limit))
    mnemonics = Counter(one.mnemonic for one in instructions)
    return {
        "compiled_for": cpu,
        "programs": len(found),
        **{outcome: sum(one == outcome for one in found.values()) for outcome in ("equal", "differing", "refused")},
        "wrong": [name for name, outcome in found.items() if outcome == "differing"],
        "instructions": {
            "all": len(instructions),
            "with 64-byte registers": sum("%zmm" in one.operands for one in instructions),
            "with masks": sum("{%k" in one.operands for one in instructions),
            **{mnemonic: mnemonics[mnemonic] for mnemonic in COUNTED},
        },
        "changed_for_mistakes_of_the_emulator": dict(changed),
    }


def main(
    processor: Annotated[
        list[str] | None, typer.Option(help="Compile for it, as LLVM calls it; may be repeated.")
    ] = None,
    model: Annotated[str, typer.Option(help="The processor that Bochs emulates: see bochs --help cpu.")] = "tigerlake",
    random: Annotated[int, typer.Option(min=0, help="Random networks, beside those of the tests.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of the first random one.")] = 1000,
    limit: Annotated[float, typer.Option(help="Seconds for an emulation.")] = 3600.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Run AVX-512 machine code under Bochs and compare."""
    try:
        machine.check_tools()
        with terminal.progress() as report:
            report("reference", None)
            cases = [case_of(name, one, number) for number, (name, one) in enumerate(networks(random, seed))]
            results = []
            for cpu in processor or PROCESSORS:
                report(f"code for {cpu} on {model}", None)
                results.append(measured(cases, cpu, model, limit))
    except HwgenError as error:
        terminal.say(f"bochs: {error}")
        raise typer.Exit(error.exit_code) from None
    steps = Counter(
        kind for case in cases for plan in case.plans.values() for kind in {type(s).__name__ for s in plan.steps}
    )
    if as_json:
        terminal.print_json(
            {
                "emulator": machine.version(),
                "model": model,
                "llvm": ".".join(map(str, llvm.llvm_version_info)),
                "features": ISA.features,
                "networks": len(cases),
                "words_each": {function: len(values) for function, values in cases[0].words.items()},
                "programs_with_step": dict(sorted(steps.items())),
                "results": results,
            }
        )
    else:
        columns = ("compiled for", "programs", "equal", "differing", "refused")
        rows = [(one["compiled_for"], *(one[column] for column in columns[1:])) for one in results]
        terminal.print_table(f"AVX-512 on Bochs's {model}", columns, rows)
    if any(result["differing"] for result in results):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
