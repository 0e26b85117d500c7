"""Devices that compute on the processor of the host."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from host import reference
from hwgen.errors import InputError
from hwgen.format.network import IntegerNetwork


class Reference:
    """The definition of the arithmetic, as a device."""

    def __init__(self, network: IntegerNetwork) -> None:
        self._network = network

    def run_int(self, x: NDArray[np.integer]) -> NDArray[np.int64]:
        return reference.run_int(self._network, x)

    @property
    def stats(self) -> Mapping[str, int | float | None]:
        return {}

    def close(self) -> None:
        pass


def open_reference(network: IntegerNetwork, directory: Path | None, argument: str) -> Reference:
    if argument:
        raise InputError(f"this device takes no argument, but was given {argument!r}")
    return Reference(network)
