from __future__ import annotations

import dataclasses

import pytest

from boards.catalogue import board
from hwgen.plan.budget import Budget
from hwgen.plan.spare_blocks import with_spare_blocks
from hwgen.plan.stages import Lanes
from tests.hwgen.plan.test_lanes import chosen, request


def chain() -> Lanes:
    stage = chosen(request(8, (3, 3), (6, 6), sets=4), 16 * 8)
    assert stage is not None and (stage.lanes, stage.sets, stage.unpaired) == (12, 4, 0)
    return stage


@pytest.mark.parametrize(("dsp", "unpaired"), [(24, 0), (25, 0), (26, 1), (27, 1), (33, 4), (48, 12), (156, 12)])
def test_lanes_take_the_blocks_that_are_left(dsp, unpaired):
    stage = chain()
    ecp5 = dataclasses.replace(board("ulx3s-85f"), dsp=dsp)
    before = Budget(ecp5).needs([stage])

    (found,) = with_spare_blocks([stage], Budget(ecp5))

    after = Budget(ecp5).needs([found])
    assert found == dataclasses.replace(stage, unpaired=unpaired)
    # Two sets share a block.
    assert (before.dsp, after.dsp) == (24, 24 + 2 * unpaired)
    assert after.lut < before.lut or not unpaired


def test_two_chains_share_what_is_left():
    stage = chain()
    found = with_spare_blocks([stage, stage], Budget(dataclasses.replace(board("ulx3s-85f"), dsp=48 + 30)))
    assert [getattr(stage, "unpaired", None) for stage in found] == [12, 3]


def test_nothing_changes_where_products_do_not_overlap_or_no_board_is_known():
    stage = chain()
    for budget in (Budget(board("alveo-u250")), Budget(None), Budget(None, 1000)):
        assert with_spare_blocks([stage], budget) == (stage,)
