"""The devices by name. Each loads when it is opened, so that no device costs anything to those who do not use it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hwgen.errors import InputError, ToolError
from hwgen.format.network import IntegerNetwork


class Device(Protocol):
    """What computes: a piece of software, a simulator or a board."""

    def run_int(self, x: NDArray[np.integer]) -> NDArray[np.int64]:
        """The network's integer output; x is a batch of at least one word that has been checked."""

    @property
    def stats(self) -> Mapping[str, int | float | None]:
        """Fields of `Statistics` that the device knows better than its caller, such as cycles."""

    def close(self) -> None:
        """Frees what the device holds; called once."""


@runtime_checkable
class RealDevice(Device, Protocol):
    """A device that quantises and scales by itself, to the same numbers as `hwgen.format.io`."""

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Real values in and out, without the head, in C order; x is a batch of at least one word, of the right shape.

        Raises:
            DataError: x has a NaN.
        """


class Factory(Protocol):
    def __call__(self, network: IntegerNetwork, directory: Path | None, argument: str) -> Device:
        """Opens a device.

        Args:
            network: what to compute.
            directory: the bundle, or None where only a .hwpack was opened.
            argument: what followed the colon in the device's name, or "".
        """


# name: module and factory in it
_REGISTRY = {
    "reference": "host.software:open_reference",
    "cpu": "host.cpu.device:open_device",
    "sim": "sim.device:open_device",
}


def register(name: str, factory: str) -> None:
    """Makes a device known.

    Args:
        name: as `host.open` will be given it, before any colon.
        factory: "module:function", the function a `Factory`; imported when the device is opened.

    Raises:
        InputError: a name with a colon, or a factory without one.
    """
    if not name or ":" in name or factory.count(":") != 1:
        raise InputError(f"device {name!r}: register a name without a colon for 'module:function', not {factory!r}")
    _REGISTRY[name] = factory


def open_device(name: str, network: IntegerNetwork, directory: Path | None) -> Device:
    """Opens the device `name`, such as "sim" or "kind:argument".

    Raises:
        InputError: there is no such device, or it cannot run what was opened.
        ToolError: something that the device needs is not installed.
    """
    kind, _, argument = name.partition(":")
    if kind not in _REGISTRY:
        known = ", ".join(sorted(_REGISTRY))
        raise InputError(f"device {name!r}: no such device: use one of {known}")
    module, _, function = _REGISTRY[kind].partition(":")
    try:
        factory: Factory = getattr(importlib.import_module(module), function)
    except ImportError as error:
        raise ToolError(f"device {name!r}: needs the module {error.name!r}: install the device's package") from error
    return factory(network, directory, argument)
