# amaranth: UnusedElaboratable=no
from __future__ import annotations

import pytest

from boards.uart import UartReceiver, UartTransmitter, baud_divider
from hwgen.errors import PlanError
from sim.bench import run_bench


@pytest.mark.parametrize("divider", [8, 13])
def test_receiver(divider):
    run_bench(UartReceiver(divider), "tests.boards.receiver_bench", parameters={"divider": divider})


@pytest.mark.parametrize("divider", [8, 13])
def test_transmitter(divider):
    run_bench(UartTransmitter(divider), "tests.boards.transmitter_bench", parameters={"divider": divider})


@pytest.mark.parametrize("component", [UartReceiver, UartTransmitter])
def test_refuses_a_line_that_is_too_fast(component):
    with pytest.raises(ValueError, match="divider must be at least 8, not 7"):
        component(7)


@pytest.mark.parametrize(
    ("clock", "baud", "wanted"),
    [
        (100e6, None, (3_000_000, 33)),
        (130e6, None, (3_000_000, 43)),
        (25e6, None, (1_500_000, 17)),  # 3 M would be off by 4 %, 2 M by 4 %
        (12e6, None, (1_500_000, 8)),
        (100e6, 115_200, (115_200, 868)),
    ],
)
def test_rate(clock, baud, wanted):
    assert baud_divider(clock, baud) == wanted


@pytest.mark.parametrize(("clock", "baud"), [(100e6, 20_000_000), (100e6, 9_500_000), (100e6, 0), (0.5e6, None)])
def test_a_rate_that_the_clock_does_not_make_is_refused(clock, baud):
    with pytest.raises(PlanError, match="baud must be at most 1/8 of the clock and within 2%"):
        baud_divider(clock, baud)
