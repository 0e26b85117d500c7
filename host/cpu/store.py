"""Machine code on disk, so that a network is compiled once and not in every process."""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import llvmlite
import numpy as np

from host.cpu.isa import Isa
from host.cpu.program import Compiled, processor
from hwgen.errors import ToolError
from hwgen.format import cache, network, shapes
from hwgen.format.network import IntegerNetwork

_CODE, _BLOCK, _WORKSPACE = "program.o", "tables.bin", "workspace.bin"


def stored(of: IntegerNetwork, isa: Isa, *, dense: bool, make: Callable[[], Compiled]) -> Compiled:
    """A network's machine code, made if this processor and this version of the code have not made it before.

    Where it cannot be kept it is made each time, with a warning.
    """
    name, features = processor()
    having = sorted(feature for feature, there in features.items() if there)
    key = cache.key_of(digest(of), isa.name, repr(dense), name, repr(having), llvmlite.__version__, _version())

    def build(folder: Path) -> None:
        made = make()
        (folder / _CODE).write_bytes(made.machine_code)
        made.block.tofile(folder / _BLOCK)
        made.workspace.tofile(folder / _WORKSPACE)

    try:
        folder = cache.entry(f"cpu-{key}", build)
    except ToolError as error:
        warnings.warn(f"{error}; until then every process compiles its networks", RuntimeWarning, stacklevel=2)
        return make()
    return Compiled(
        (folder / _CODE).read_bytes(),
        np.fromfile(folder / _BLOCK, np.uint8),
        np.fromfile(folder / _WORKSPACE, np.uint8),
    )


def digest(value: Any) -> bytes:
    """SHA-256 of a network's contents."""
    found = hashlib.sha256()
    _feed(found, value)
    return found.digest()


def _feed(found: Any, value: Any) -> None:
    if is_dataclass(value):
        found.update(type(value).__name__.encode() + b"{")
        for field in fields(value):
            found.update(field.name.encode() + b"=")
            _feed(found, getattr(value, field.name))
        found.update(b"}")
    elif isinstance(value, np.ndarray):
        found.update(f"{value.dtype.str}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, tuple):
        found.update(f"({len(value)}".encode())
        for part in value:
            _feed(found, part)
    else:
        found.update(repr(value).encode() + b";")


@functools.cache
def _version() -> bytes:
    """Of the code generator: its own text, and that of what it learns a network's shapes from."""
    found = hashlib.sha256()
    for path in [*sorted(Path(__file__).parent.glob("*.py")), Path(shapes.__file__), Path(network.__file__)]:
        found.update(path.name.encode() + path.read_bytes())
    return found.digest()
