"""The bundle's compiled simulator as a device of `host`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwgen.errors import InputError
from hwgen.format.network import IntegerNetwork
from hwgen.format.port import Port
from sim.compiled import CompiledSimulator


class SimulatedDevice:
    """Computes in the Verilog of a bundle, cycle by cycle, and counts cycles and bytes on its streams."""

    def __init__(self, directory: Path) -> None:
        self._simulator = CompiledSimulator.from_bundle(directory)
        self._words = self._cycles = 0
        self._cycles_per_word: float | None = None

    def run_int(self, x: NDArray[np.integer]) -> NDArray[np.int64]:
        y, result = self._simulator.run(x)
        self._words += len(x)
        self._cycles += result.cycles
        if not math.isnan(result.cycles_per_word):
            self._cycles_per_word = result.cycles_per_word
        return y

    @property
    def stats(self) -> Mapping[str, int | float | None]:
        return {
            "cycles": self._cycles,
            "cycles_per_word": self._cycles_per_word,
            "bytes_in": self._words * _word_bytes(self._simulator.input),
            "bytes_out": self._words * _word_bytes(self._simulator.output),
        }

    def close(self) -> None:
        self._simulator.close()


def open_device(network: IntegerNetwork, directory: Path | None, argument: str) -> SimulatedDevice:
    if directory is None:
        raise InputError("device 'sim': simulates the Verilog of a bundle, not a .hwpack: use hwgen generate first")
    if argument:
        raise InputError(f"device 'sim': takes no argument, but was given {argument!r}")
    return SimulatedDevice(directory)


def _word_bytes(port: Port | None) -> int:
    return port.beats * -(-port.payload_bits // 8) if port else 0
