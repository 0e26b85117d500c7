from __future__ import annotations

import pytest

from boards.pll import pll_settings
from hwgen.errors import PlanError


@pytest.mark.parametrize("mhz", [3.125, 25, 62.5, 80, 100, 110, 125, 130, 133, 150, 200, 400])
def test_makes_the_clock_within_the_limits_of_the_data_sheet(mhz):
    found = pll_settings(25e6, mhz * 1e6)
    assert abs(found.output_hz / 1e6 / mhz - 1) < 0.01
    assert found.output_hz == 25e6 / found.input_divider * found.feedback_divider
    assert 3.125e6 <= 25e6 / found.input_divider <= 400e6
    assert 400e6 <= found.oscillator_hz == found.output_hz * found.output_divider <= 800e6


@pytest.mark.parametrize("mhz", [100, 125, 110])
def test_exact_where_it_can_be(mhz):
    assert pll_settings(25e6, mhz * 1e6).output_hz == mhz * 1e6


@pytest.mark.parametrize("mhz", [0, -5, 1, 420, float("nan"), 29.6])
def test_a_clock_out_of_reach_names_the_nearest(mhz):
    with pytest.raises(PlanError, match=r"clock must be one that the PLL makes of 25 MHz, 3.125 to 400 MHz.*nearest"):
        pll_settings(25e6, mhz * 1e6)
