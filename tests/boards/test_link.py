from __future__ import annotations

import pytest

from boards.link import BeatsToBytes, BytesToBeats, SerialLink
from sim.bench import run_bench


@pytest.mark.parametrize("bits", [1, 8, 20, 64])
@pytest.mark.parametrize("joins", [True, False])
def test_bytes_and_beats(bits, joins):
    component = (BytesToBeats if joins else BeatsToBytes)(bits)
    run_bench(component, "tests.boards.bytes_bench", parameters={"bits": bits, "joins": joins})


@pytest.mark.parametrize(("input_bits", "output_bits"), [(8, 19), (24, 8)])
def test_serial_link(input_bits, output_bits):
    parameters = {"input_bits": input_bits, "output_bits": output_bits, "divider": 8}
    run_bench(SerialLink(**parameters), "tests.boards.link_bench", parameters=parameters)
