"""Clock, reset and drivers for components whose ports are not all streams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge


class Driver(Protocol):
    """What is stepped: a source or a sink of `sim.streams`, or one of a test's own."""

    def step(self, cycle: int) -> None:
        """Called just after each rising edge without reset."""

    def clear(self) -> None:
        """Called on reset."""


class Clocked:
    """Runs the clock and steps the drivers.

    Members:
        cycle: rising edges since the last reset.
    """

    def __init__(self, dut, drivers: Sequence[Driver]):
        self.dut, self.drivers, self.cycle = dut, list(drivers), 0
        self._resetting = False
        dut.rst.value = 0
        Clock(dut.clk, 10, unit="ns").start()
        cocotb.start_soon(self._run())

    async def reset(self) -> None:
        """Resets the component at once, whatever is in flight."""
        # `rst` itself changes only after all coroutines of this edge have run.
        self._resetting = True
        self.dut.rst.value = 1
        for driver in self.drivers:
            driver.clear()
        await RisingEdge(self.dut.clk)
        self._resetting = False
        self.dut.rst.value = 0
        for driver in self.drivers:
            driver.clear()
        self.cycle = 0

    async def wait(self, cycles: int) -> None:
        for _ in range(cycles):
            await RisingEdge(self.dut.clk)

    async def _run(self) -> None:
        while True:
            await RisingEdge(self.dut.clk)
            if self._resetting or self.dut.rst.value:
                continue
            self.cycle += 1
            for driver in self.drivers:
                driver.step(self.cycle)
