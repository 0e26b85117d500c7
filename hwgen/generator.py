"""From a packed network and a goal to a bundle of bitstream sources."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwgen.errors import InputError, ToolError, install
from hwgen.format.bundle import NETWORK, Manifest, check_replaceable, write_bundle
from hwgen.format.packed import PackedNetwork
from hwgen.format.port import Port
from hwgen.plan import Plan, make_plan
from hwgen.plan.stages import Source
from hwgen.verilog import write_verilog
from rtl_templates.target import target_of

TOP = "accelerator"
TOOLS = ("hwgen", "amaranth", "pyosys")


@dataclass(frozen=True)
class Bundle:
    """A generated accelerator.

    Attributes:
        path: the bundle's folder.
        plan: what was generated.
        manifest: as written.
    """

    path: Path
    plan: Plan
    manifest: Manifest


def generate(
    packed: PackedNetwork,
    out: str | os.PathLike[str],
    *,
    board: Any = "ulx3s-85f",
    mode: str = "auto",
    cycles: int | None = None,
) -> Bundle:
    """Plans and generates; the folder appears complete or not at all.

    Args:
        packed: the network.
        out: folder to make; an older bundle there is replaced, unless it has a bitstream and is of another design;
            anything else is not.
        board: a name of the catalogue, a Board, or None for no board's bounds: without `cycles` that is the fastest of at
            most 4,096 multiplier blocks, a design whose simulator takes minutes to compile.
        mode: "dense", "sparse-dense", "sparse-sparse" or "auto".
        cycles: the most cycles a word may take; None for the fastest pipeline that fits the board.

    Raises:
        PlanError: no such board or mode, or the goal is out of reach.
        InputError: `out` exists and may not be replaced.
        ToolError: Yosys is missing or failed.
    """
    if not isinstance(packed, PackedNetwork):
        raise InputError(
            f"generate: takes a packed network, from hwgen.pack or hwgen.load, not {type(packed).__name__}"
        )
    # Before the long work rather than after it.
    check_replaceable(Path(out))
    return write(make_plan(packed, board=board, mode=mode, cycles=cycles), packed, out)


def write(plan: Plan, packed: PackedNetwork, out: str | os.PathLike[str]) -> Bundle:
    """The bundle of a plan.

    Raises:
        InputError: `out` exists and may not be replaced.
        ToolError: Amaranth or Yosys is missing, or Yosys failed.
    """
    check_replaceable(Path(out))
    try:
        # Amaranth is needed from here on only: planning works without it.
        from hwgen.elaborate import accelerator
    except ModuleNotFoundError as error:
        raise ToolError(f"generating needs the module {error.name}: {install('sim')}") from error

    component = accelerator(plan, packed)
    with tempfile.TemporaryDirectory(prefix="hwgen-generate-") as scratch:
        written = write_verilog(component, Path(scratch), TOP, target_of(plan.family, plan.ultra_ram))
        files: dict[str, bytes | Path] = {path.name: path for path in written}
        packed.save(Path(scratch) / NETWORK)
        files[NETWORK] = Path(scratch) / NETWORK
        manifest = write_bundle(
            out,
            files,
            input=input_port(plan, packed),
            output=output_port(plan),
            plan=plan.to_json(),
            expected={"cycles_per_word": plan.cycles_per_word, "multipliers": plan.multipliers},
            tools={name: importlib.metadata.version(name) for name in TOOLS},
            top=TOP,
        )
    return Bundle(Path(out), plan, manifest)


def input_port(plan: Plan, packed: PackedNetwork) -> Port:
    """The accelerator's stream of words in, and the scale of its values."""
    source = plan.stages[0]
    assert isinstance(source, Source)
    network = packed.network
    return Port(
        lanes=source.lanes,
        bits=8,
        signed=network.input.signed,
        shape=network.input.shape,
        layout=source.layout,
        pixels=source.pixels,
    )


def output_port(plan: Plan) -> Port:
    """The accelerator's stream of results."""
    output = plan.output
    return Port(lanes=output.lanes, bits=output.bits, signed=output.signed, shape=output.shape, layout=output.layout)
