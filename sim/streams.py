"""Drivers for the streams of a component under cocotb: a source, a sink, and the packing of what their beats carry.

Signals are sampled at the rising clock edge, before any register changes, and driven after it. Cycles are numbered from
the start of the simulation, so only their differences mean something.
"""

from __future__ import annotations

import json
import os
import random
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.simtime import get_sim_time
from cocotb.triggers import RisingEdge

from sim.bench import PARAMETERS_VARIABLE

_PERIOD = 10

# Idle probability x back-pressure probability: none, either, both, and an input that hardly comes.
STALLS = ((0.0, 0.0), (0.4, 0.0), (0.0, 0.4), (0.3, 0.5), (0.8, 0.1))


def parameters() -> dict[str, Any]:
    """What the caller of `run_bench` passed."""
    return json.loads(Path(os.environ[PARAMETERS_VARIABLE]).read_text())


def pack(values: Iterable[int], bits: int) -> int:
    """Lanes of `bits` bits each, the first in the lowest bits; negative values in two's complement."""
    mask = (1 << bits) - 1
    return sum((int(value) & mask) << (lane * bits) for lane, value in enumerate(values))


def unpack(payload: int, bits: int, lanes: int, signed: bool) -> list[int]:
    """The inverse of `pack`."""
    fields = [(payload >> (lane * bits)) & ((1 << bits) - 1) for lane in range(lanes)]
    return [field - (1 << bits) if signed and field >> (bits - 1) else field for field in fields]


def unpack_entry(payload: int, index_bits: int, bits: int, signed: bool) -> tuple[int, int]:
    """(index, value) of a list stream's payload."""
    return payload & ((1 << index_bits) - 1), unpack(payload >> index_bits, bits, 1, signed)[0]


class Source:
    """Drives a stream input.

    Arguments:
        dut: the component.
        name: of the stream.
        pause: probability of a cycle without a beat, wherever the protocol allows one.
        seed: of the pauses.

    Members:
        pause: as above, may be changed at any time.
        cycles: when each beat was accepted.
    """

    def __init__(self, dut, name: str = "x", pause: float = 0.0, seed: int = 0):
        self._payload, self._valid = getattr(dut, f"{name}__payload"), getattr(dut, f"{name}__valid")
        self._ready = getattr(dut, f"{name}__ready")
        self._queue: deque[int] = deque()
        self.pause, self._random = pause, random.Random(seed)
        self._driving = False
        self.cycles: list[int] = []
        self._idle()

    def send(self, payloads: Iterable[int]) -> None:
        """Queues beats."""
        self._queue.extend(payloads)

    def clear(self) -> None:
        """Forgets everything, as the component does on reset."""
        self._queue.clear()
        self.cycles = []
        self._idle()

    def step(self, cycle: int) -> None:
        """To be called just after each rising edge."""
        if self._driving and self._ready.value:
            self.cycles.append(cycle)
            self._queue.popleft()
            self._driving = False
        if self._driving:
            return
        if self._queue and not (self.pause and self._random.random() < self.pause):
            self._payload.value = self._queue[0]
            self._valid.value = 1
            self._driving = True
        else:
            self._idle()

    def _idle(self) -> None:
        self._valid.value = 0
        # A component must not look at the payload of a beat that is not there.
        self._payload.value = self._random.getrandbits(len(self._payload))
        self._driving = False


class Sink:
    """Takes a stream output, and checks that a beat that was offered stays as it is until it is taken.

    Arguments:
        dut: the component.
        name: of the stream.
        pause: probability of a cycle in which the sink is not ready.
        seed: of the pauses.

    Members:
        pause: as above, may be changed at any time.
        beats: the payloads.
        cycles: when each beat was taken.
    """

    def __init__(self, dut, name: str = "y", pause: float = 0.0, seed: int = 0):
        self._payload, self._valid = getattr(dut, f"{name}__payload"), getattr(dut, f"{name}__valid")
        self._ready = getattr(dut, f"{name}__ready")
        self.pause, self._random = pause, random.Random(seed)
        self._taking = False
        self._offered: int | None = None
        self.beats: list[int] = []
        self.cycles: list[int] = []
        self._ready.value = 0

    def clear(self) -> None:
        """Forgets everything, as the component does on reset."""
        self.beats, self.cycles = [], []
        self._offered = None

    def step(self, cycle: int) -> None:
        """To be called just after each rising edge."""
        valid = bool(self._valid.value)
        if valid:
            payload = int(self._payload.value)
            assert self._offered in (None, payload), f"payload changed while stalled at cycle {cycle}"
            self._offered = None if self._taking else payload
            if self._taking:
                self.beats.append(payload)
                self.cycles.append(cycle)
        else:
            assert self._offered is None, f"valid fell while stalled at cycle {cycle}"
        self._taking = not (self.pause and self._random.random() < self.pause)
        self._ready.value = int(self._taking)


class Bench:
    """Clock, reset, and one coroutine that steps every source and sink.

    Arguments:
        dut: the component.
        idle: probability of a cycle without an input beat.
        back_pressure: probability of a cycle in which no output is taken.
        seed: of the pauses.
        inputs, outputs: names of the streams.

    Members:
        sources, sinks: the drivers, in the order of the names.
        source, sink: the first of each.
    """

    def __init__(
        self,
        dut,
        idle: float = 0.0,
        back_pressure: float = 0.0,
        seed: int = 0,
        inputs: Sequence[str] = ("x",),
        outputs: Sequence[str] = ("y",),
    ):
        self.dut = dut
        self.sources = [Source(dut, name, idle, seed + 2 * i) for i, name in enumerate(inputs)]
        self.sinks = [Sink(dut, name, back_pressure, seed + 2 * i + 1) for i, name in enumerate(outputs)]
        self.source, self.sink = self.sources[0], self.sinks[0]
        dut.rst.value = 0
        Clock(dut.clk, _PERIOD, unit="ns").start()
        cocotb.start_soon(self._run())

    def stalls(self, idle: float, back_pressure: float) -> None:
        """Sets the probabilities anew."""
        for source in self.sources:
            source.pause = idle
        for sink in self.sinks:
            sink.pause = back_pressure

    async def reset(self, cycles: int = 1) -> None:
        """Resets the component at once, whatever is in flight, and forgets what was queued and received."""
        self.dut.rst.value = 1
        for source in self.sources:
            source.clear()
        await self.wait(cycles)
        self.dut.rst.value = 0
        # What the component offered before it was reset may have been taken in the meantime.
        for driver in self.sinks:
            driver.clear()

    async def wait(self, cycles: int) -> None:
        """Lets some cycles pass."""
        for _ in range(cycles):
            await RisingEdge(self.dut.clk)

    async def receive(self, count: int, limit: int) -> list[int]:
        """The first `count` beats of the first sink; AssertionError if they do not come within `limit` cycles."""
        for _ in range(limit):
            if len(self.sink.beats) >= count:
                return self.sink.beats[:count]
            await RisingEdge(self.dut.clk)
        raise AssertionError(f"{len(self.sink.beats)} of {count} beats after {limit} cycles")

    async def run(self, payloads: Sequence[int], count: int, limit: int) -> list[int]:
        """Resets, sends the payloads, returns `count` output beats, and checks that no more come."""
        await self.reset()
        self.source.send(payloads)
        beats = await self.receive(count, limit)
        await self.wait(20)
        assert len(self.sink.beats) == count, f"{len(self.sink.beats) - count} beats too many"
        return beats

    async def _run(self) -> None:
        while True:
            await RisingEdge(self.dut.clk)
            if self.dut.rst.value:
                continue
            cycle = int(get_sim_time("ns")) // _PERIOD
            for source in self.sources:
                source.step(cycle)
            for sink in self.sinks:
                sink.step(cycle)
