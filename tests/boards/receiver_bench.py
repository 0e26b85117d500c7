"""cocotb tests of UartReceiver."""

from __future__ import annotations

import random

import cocotb
from cocotb.triggers import RisingEdge, Timer

from sim.streams import Sink, parameters
from tests.boards.serial_line import Counter, bit_picoseconds, cycle, reset, send, start, wait

DIVIDER = parameters()["divider"]
DATA = [0x00, 0xFF, 0x55, 0xAA, 0x01, 0x80, *random.Random(5).randbytes(8)]


def collect(dut) -> Sink:
    sink = Sink(dut)

    async def run() -> None:
        while True:
            await RisingEdge(dut.clk)
            if not dut.rst.value:
                sink.step(int(cycle()))

    cocotb.start_soon(run())
    return sink


@cocotb.test()
async def takes_what_a_host_sends_whose_clock_is_off(dut):
    await start(dut, "y__ready")
    sink, lost = collect(dut), Counter(dut, "lost")
    for error in (0.0, -0.02, 0.02):
        for pause in (0.0, 0.7):
            sink.clear()
            sink.pause = pause
            await send(dut.rx, DATA, bit_picoseconds(DIVIDER, error))
            await wait(dut, 20)
            assert sink.beats == DATA, (error, pause)
    assert lost.count == 0


@cocotb.test()
async def counts_every_byte_that_it_loses(dut):
    await start(dut, "y__ready")
    lost, bit = Counter(dut, "lost"), bit_picoseconds(DIVIDER)
    await send(dut.rx, [1, 2, 3, 4], bit)
    await wait(dut, 4)
    assert lost.count == 3
    sink = collect(dut)
    await wait(dut, 4)
    assert sink.beats == [1]
    await send(dut.rx, [0xFF], bit, stop=0)
    await Timer(2 * bit, unit="ps")
    await send(dut.rx, [5, 6], bit)
    await wait(dut, 4)
    assert (lost.count, sink.beats) == (4, [1, 5, 6])


@cocotb.test()
async def a_spike_is_no_byte(dut):
    await start(dut, "y__ready")
    sink, lost = collect(dut), Counter(dut, "lost")
    for _ in range(5):
        dut.rx.value = 0
        await wait(dut, DIVIDER // 2 - 2)
        dut.rx.value = 1
        await wait(dut, 2 * DIVIDER)
    await send(dut.rx, [9], bit_picoseconds(DIVIDER))
    await wait(dut, 4)
    assert (sink.beats, lost.count) == ([9], 0)


@cocotb.test()
async def reset_in_flight_starts_afresh(dut):
    await start(dut, "y__ready")
    sink = collect(dut)
    for delay in range(DIVIDER, 10 * DIVIDER, 2 * DIVIDER + 3):
        sending = cocotb.start_soon(send(dut.rx, [0xFF], bit_picoseconds(DIVIDER)))
        await wait(dut, delay)
        await reset(dut)
        await sending
        sink.clear()
        await send(dut.rx, DATA[:3], bit_picoseconds(DIVIDER))
        await wait(dut, 4)
        assert sink.beats == DATA[:3], delay


@cocotb.test()
async def latency(dut):
    await start(dut, "y__ready")
    sink = collect(dut)
    await RisingEdge(dut.clk)
    began = cycle()
    await send(dut.rx, [7], bit_picoseconds(DIVIDER))
    await wait(dut, 4)
    assert sink.cycles[0] - int(began) == 9 * DIVIDER + DIVIDER // 2 + 4
