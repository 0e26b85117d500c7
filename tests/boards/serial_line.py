"""A serial line under cocotb: clock, reset, what the other end of the line does, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable

import cocotb
from cocotb.clock import Clock
from cocotb.simtime import get_sim_time
from cocotb.triggers import FallingEdge, RisingEdge, Timer

PERIOD = 10  # ns


async def start(dut, *idle_low: str) -> None:
    """Starts the clock and resets, the line at rest and the named inputs at 0."""
    for name in idle_low:
        getattr(dut, name).value = 0
    if hasattr(dut, "rx"):
        dut.rx.value = 1
    Clock(dut.clk, PERIOD, unit="ns").start()
    await reset(dut)


async def reset(dut) -> None:
    dut.rst.value = 1
    await RisingEdge(dut.clk)
    await RisingEdge(dut.clk)
    dut.rst.value = 0


async def wait(dut, cycles: int) -> None:
    for _ in range(cycles):
        await RisingEdge(dut.clk)


def cycle() -> float:
    return get_sim_time("ns") / PERIOD


def bit_picoseconds(divider: int, error: float = 0.0) -> int:
    """A bit of a host whose rate is off by some part."""
    return round(1000 * PERIOD * divider / (1 + error))


async def send(pin, data: Iterable[int], bit: int, stop: int = 1) -> None:
    """Frames without a gap between them."""
    for byte in data:
        for level in (0, *(byte >> i & 1 for i in range(8)), stop):
            pin.value = level
            await Timer(bit, unit="ps")
    pin.value = 1


class Listener:
    """The host's receiver.

    Arguments:
        pin: the line.
        bit: in picoseconds.

    Members:
        data: bytes that came.
        starts: cycle of each start bit.
    """

    def __init__(self, pin, bit: int):
        self._pin, self._bit = pin, bit
        self.data: list[int] = []
        self.starts: list[float] = []
        self._task = cocotb.start_soon(self._run())

    def close(self) -> None:
        """Listens no more."""
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            await FallingEdge(self._pin)
            self.starts.append(cycle())
            await Timer(self._bit * 3 // 2, unit="ps")
            byte = 0
            for i in range(8):
                byte |= int(self._pin.value) << i
                await Timer(self._bit, unit="ps")
            assert self._pin.value == 1, "no stop bit"
            self.data.append(byte)


class Counter:
    """Counts the cycles in which a signal is 1."""

    def __init__(self, dut, name: str):
        self.count = 0
        self._clock, self._signal = dut.clk, getattr(dut, name)
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        while True:
            await RisingEdge(self._clock)
            self.count += int(self._signal.value)
