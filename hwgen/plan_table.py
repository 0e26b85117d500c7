"""A plan as figures and as a table: cycles, multipliers, and by estimate what its stages take of the FPGA."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from boards.catalogue import BOARDS, Board
from hwgen import terminal
from hwgen.plan import Plan
from hwgen.plan.resources import Resources, blocks, resources, total

STAGE = ("stage", "kind, mode", "cycles", "multipliers")


def figures(plan: Plan) -> dict[str, Any]:
    """The plan without the channel numbers of its streams, which only generation needs.

    `estimate` is what stages take: lut, dsp, block_ram (18 kbit on the ECP5, 36 kbit on UltraScale+), ultra_ram; of the
    whole plan with what the board has as `board_has`.
    """
    made = plan.to_json()
    made["stages"] = [
        {
            "name": stage.name,
            "kind": stage.kind,
            "mode": getattr(stage, "mode", None),
            "cycles": stage.cycles,
            "multipliers": stage.multipliers,
            "products": stage.products,
            "utilisation": stage.utilisation,
            "estimate": _rounded(resources(stage, plan.family, ultra_ram=plan.ultra_ram)),
        }
        for stage in plan.stages
    ]
    made["estimate"] = _rounded(total(plan.stages, plan.family, ultra_ram=plan.ultra_ram))
    made["board_has"] = _rounded(_capacity(board)) if (board := _board(plan)) else None
    del made["output"]
    return made


def show(plan: Plan) -> None:
    """Prints a row for each stage and one for the whole, in 80 columns; `figures` has what does not fit there.

    RAMs are blocks of memory.
    """
    made = figures(plan)
    rows = [(*_stage(stage), *_cells(stage["estimate"])) for stage in made["stages"]]
    rows.append(("all", plan.mode, plan.cycles_per_word, plan.multipliers, *_cells(made["estimate"])))
    if made["board_has"]:
        rows.append((f"{plan.board} has", "", "", "", *_cells(made["board_has"])))
    title = f"{plan.cycles_per_word:,} cycles a word, {plan.multipliers:,} multipliers" + (
        f" on {plan.board}" if plan.board else ""
    )
    terminal.print_table(f"{title}; LUTs, DSPs, RAMs estimated", (*STAGE, "LUTs", "DSPs", "RAMs"), rows, left=2)


def show_stored(title: str, plan: dict[str, Any]) -> None:
    """Prints a row for each stage of the plan in a bundle's manifest."""
    rows = [_stage(stage) for stage in plan.get("stages", ())]
    terminal.print_table(title, STAGE, rows, left=2)


def _stage(stage: dict[str, Any]) -> tuple[object, ...]:
    kind, mode = stage["kind"], stage.get("mode")
    return stage["name"], f"{kind}, {mode}" if mode else kind, stage["cycles"], stage["multipliers"] or ""


def _cells(estimate: dict[str, float]) -> tuple[float | str, ...]:
    return tuple(estimate[name] or "" for name in ("lut", "dsp", "block_ram"))


def _rounded(estimate: Resources) -> dict[str, float]:
    return asdict(estimate) | {"lut": round(estimate.lut), "block_ram": round(estimate.block_ram, 1)}


def _board(plan: Plan) -> Board | None:
    return next((board for board in BOARDS if board.name == plan.board), None)


def _capacity(board: Board) -> Resources:
    return Resources(board.lut, board.dsp, blocks(board.block_ram_bits, board.family), board.ultra_ram)
