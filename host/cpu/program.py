"""Machine code in memory, as something to call."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import llvmlite.binding as llvm
import numpy as np
from numpy.typing import NDArray

from host.cpu.isa import Isa
from hwgen.errors import ToolError

INTEGERS, FLOATS = "infer_integers", "infer_floats"
# FLOATS with its arguments in memory: to convert five of them takes ctypes longer than a small layer takes.
PREPARED = "infer_prepared"
OPTIMISATION = 3
# Bytes of a line of the caches, and of a large page where pages have 4 KiB.
LINE, LARGE_PAGE = 64, 1 << 21
# Of Linux on x86-64: the system call, what is asked of it, and for what.
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()


@dataclass(frozen=True, eq=False)
class Compiled:
    """What a network needs to run.

    Attributes:
        machine_code: an object file.
        block: uint8, the tables.
        workspace: uint8, as it is before the first word.
    """

    machine_code: bytes
    block: NDArray[np.uint8]
    workspace: NDArray[np.uint8]


def processor() -> tuple[str, Mapping[str, bool]]:
    """The processor's name and its features, as LLVM calls them; tiles only if the system lets this process use them."""
    features = dict(llvm.get_host_cpu_features())
    if features.get("amx-tile") and not _tiles_allowed():
        features["amx-tile"] = False
    return llvm.get_host_cpu_name(), features


@functools.cache
def _tiles_allowed() -> bool:
    """Asks Linux for AMX's tiles, which it saves for no process that did not ask (Documentation/arch/x86/xstate.rst)."""
    if sys.platform != "linux":
        return False
    numbers = (ctypes.c_long(number) for number in (_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA))
    return ctypes.CDLL(None).syscall(*numbers) == 0


def target_machine(isa: Isa, cpu: str = ""):
    """For this processor where the path has special instructions, else for any of its architecture.

    Args:
        isa: the path.
        cpu: another processor that has what the path needs, as LLVM calls it: to look at its machine code.
    """
    target = llvm.Target.from_default_triple()
    features = ",".join(f"+{feature}" for feature in isa.features)
    # LLVM avoids registers of 64 bytes where it is not told to use them.
    if isa.register == 64 and isa.features:
        features += ",-prefer-256-bit"
    name = (cpu or llvm.get_host_cpu_name()) if isa.features else ""
    return target.create_target_machine(cpu=name, features=features, opt=OPTIMISATION, reloc="pic", codemodel="small")


class Program:
    """Machine code in memory.

    Arguments:
        made: what was compiled.
        isa: the path that it was compiled for.

    Raises:
        ToolError: the system does not let this process use the path's tiles.
    """

    def __init__(self, made: Compiled, isa: Isa):
        if isa.tiles and not isa.emulated and not _tiles_allowed():
            raise ToolError(f"device 'cpu:{isa.name}': the system refuses AMX's tiles: use cpu:avx512")
        self._block, self._workspace = _aligned(made.block), made.workspace
        # The engine needs a module of its own, which stays empty.
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine(isa))
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(made.machine_code))
        self._engine.finalize_object()
        # Python's lock is free during a call, so that threads compute side by side.
        kind = ctypes.CFUNCTYPE(ctypes.c_int32, *(ctypes.c_void_p,) * 2, ctypes.c_int64, *(ctypes.c_void_p,) * 2)
        self.integers, self.floats = (kind(self._engine.get_function_address(name)) for name in (INTEGERS, FLOATS))
        of_memory = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)
        self.prepared = of_memory(self._engine.get_function_address(PREPARED))

    @property
    def block(self) -> int:
        """Address of the tables."""
        return self._block.ctypes.data

    def workspace(self) -> NDArray[np.uint8]:
        """Memory that one call at a time may use."""
        return _aligned(self._workspace)


def _aligned(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy at the begin of a line, or of large pages: hundreds of small ones would have to be looked up for a word."""
    large = len(values) >= LARGE_PAGE // 4
    alignment = LARGE_PAGE if large else LINE
    # Of 4 MiB and more numpy asks Linux for large pages (NUMPY_MADVISE_HUGEPAGE); what is not written to takes no memory.
    whole = -(-len(values) // alignment) * alignment
    memory = np.empty(max(whole + alignment, 2 * LARGE_PAGE * large), np.uint8)
    start = -memory.ctypes.data % alignment
    copy = memory[start : start + len(values)]
    copy[:] = values
    return copy
