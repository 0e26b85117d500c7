"""cocotb tests of UartTransmitter."""

from __future__ import annotations

import random

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from sim.streams import Source, parameters
from tests.boards.serial_line import Listener, bit_picoseconds, cycle, reset, start, wait

DIVIDER = parameters()["divider"]
FRAME = 10 * DIVIDER + 1
DATA = [0x00, 0xFF, 0x55, 0xAA, 0x01, 0x80, *random.Random(6).randbytes(8)]


def drive(dut) -> Source:
    source = Source(dut)

    async def run() -> None:
        while True:
            await RisingEdge(dut.clk)
            if not dut.rst.value:
                source.step(int(cycle()))

    cocotb.start_soon(run())
    return source


@cocotb.test()
async def a_host_whose_clock_is_off_hears_what_is_sent(dut):
    await start(dut, "x__valid")
    source = drive(dut)
    for error in (0.0, -0.02, 0.02):
        for pause in (0.0, 0.99):
            source.clear()
            source.pause = pause
            listener = Listener(dut.tx, bit_picoseconds(DIVIDER, error))
            source.send(DATA)
            await wait(dut, (FRAME + 200 * (pause > 0)) * len(DATA) + FRAME)
            listener.close()
            assert listener.data == DATA, (error, pause)


@cocotb.test()
async def interval_and_latency(dut):
    await start(dut, "x__valid")
    source, listener = drive(dut), Listener(dut.tx, bit_picoseconds(DIVIDER))
    source.send(DATA)
    await wait(dut, FRAME * len(DATA) + FRAME)
    assert {round(gap) for gap in np.diff(listener.starts)} == {FRAME}
    # The clock edge that takes the byte begins the start bit.
    assert int(listener.starts[0]) == source.cycles[0]


@cocotb.test()
async def reset_in_flight_starts_afresh(dut):
    await start(dut, "x__valid")
    source = drive(dut)
    for delay in range(2, FRAME, 3 * DIVIDER - 1):
        source.send([0x00])
        await wait(dut, delay)
        source.clear()
        await reset(dut)
        await wait(dut, 2)
        assert dut.tx.value == 1
        listener = Listener(dut.tx, bit_picoseconds(DIVIDER))
        source.send(DATA[:3])
        await wait(dut, 4 * FRAME)
        listener.close()
        assert listener.data == DATA[:3], delay
