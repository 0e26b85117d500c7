"""What a plan does with the multiplier blocks that a board has left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hwgen.plan.budget import Budget
from hwgen.plan.stages import ListLanes, Stage
from rtl_templates.target import target_of


def with_spare_blocks(stages: Sequence[Stage], budget: Budget) -> tuple[Stage, ...]:
    """Lanes get a block for each product as far as blocks go: two products of one block take LUTs where they overlap.

    Without a board blocks are not known to be left, and where a block is wide enough two products take no LUTs.
    """
    if budget.board is None or not target_of(budget.family).pairs_overlap:
        return tuple(stages)
    spare = budget.limits[0] - budget.needs(stages).dsp
    result: list[Stage] = []
    for stage in stages:
        if isinstance(stage, ListLanes) and (pairs := stage.sets // 2):
            unpaired = min(stage.lanes, int(spare // pairs))
            spare -= unpaired * pairs
            stage = replace(stage, unpaired=unpaired)
        result.append(stage)
    return tuple(result)
