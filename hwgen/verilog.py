"""From an Amaranth component to Verilog, through native Yosys (the pyosys wheel).

Memories keep their initial contents in `$readmemb` files beside the Verilog, so that a large weight memory costs
neither elaboration nor compile time.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from hwgen.errors import ToolError, install

# What simulators and synthesis tools read quickest, chosen by measuring. Attributes stay: synthesis takes from them which
# memory is to be block RAM, and that no row is read while it is written. The names of array elements, `x[0]`, go: Yosys
# takes them for bits of `x` when it maps LUTs. Before these comes `proc`.
PASSES = (
    "opt_expr",
    "opt_clean",
    "opt_merge",
    "opt_dff",
    "opt_clean",
    "memory_collect",
    "rename -hide */w:*[*]*",
    "write_verilog -extmem {verilog}",
)

# Bits of a memory's contents from which on Yosys had better set them aside at once: it looks at each bit in every pass.
_LARGE = 1 << 22


def write_verilog(component, directory: Path, name: str, target: object = None) -> list[Path]:
    """Elaborates an `amaranth.lib.wiring.Component` and writes `<name>.v` and its memory images into `directory`.

    Args:
        component: the component; its signature's members become ports such as `x__payload`, beside `clk` and `rst`.
        directory: an existing folder.
        name: of the Verilog module and of the file.
        target: rtl_templates.target.Target that the components are written for; None for the default.

    Returns:
        The written files, the Verilog first. Memory images are referred to by bare file name: run tools in `directory`.

    Raises:
        ToolError: pyosys is missing or Yosys failed.
    """
    # With Amaranth, which planning and loading need not.
    from rtl_templates.shared import Definitions

    definitions = Definitions(target)
    texts = [_rtlil(component, name, definitions)]
    # Those may use others again: the list grows while it is read.
    for shared, definition in definitions:
        texts.append(_rtlil(definition, shared, definitions).replace("attribute \\top 1\n", ""))
    with tempfile.TemporaryDirectory(prefix="hwgen-yosys-") as scratch:
        source, verilog = Path(scratch) / "design.il", Path(scratch) / f"{name}.v"
        source.write_text("".join(texts))
        large = [f"memory_collect {module}" for module in _with_large_memories(texts)]
        steps = [step.format(verilog=verilog) for step in PASSES]
        run_yosys([f"read_rtlil {source}", "proc", *large, *steps])
        # Yosys stamps its version into the first comment, which the manifest already names, and its own folder into
        # the paths of the memory images: both would make equal designs differ.
        content = re.sub(r"\A/\*.*?\*/\n", "", verilog.read_text(), flags=re.DOTALL)
        written = [directory / verilog.name]
        written[0].write_text(content.replace(f"{scratch}/", ""))
        for image in sorted(Path(scratch).glob(f"{name}-*.mem")):
            written.append(directory / image.name)
            written[-1].write_text(image.read_text())
    return written


def _rtlil(component, name: str, platform: object) -> str:
    """Amaranth's conversion, in half its time where there are tens of megabits of weights.

    By itself it makes an object of every bit of a memory's contents, asks each bit of a value for its type whenever a
    value is made of it, and Python looks through all of its objects for garbage again and again. The text is the same.
    """
    from amaranth.back import rtlil
    from amaranth.hdl._nir import Value

    emitter = rtlil.ModuleEmitter
    bit_by_bit, checked, collects = emitter.emit_memory, Value.__new__, gc.isenabled()
    gc.disable()
    try:
        emitter.emit_memory, Value.__new__ = _emit_contents, _unchecked
        return rtlil.convert(component, name=name, platform=platform, emit_src=False)
    finally:
        emitter.emit_memory, Value.__new__ = bit_by_bit, checked
        if collects:
            gc.enable()


def _with_large_memories(texts: Iterable[str]) -> list[str]:
    """Of some RTLIL, the names of the modules that have one."""
    names = []
    for line in chain.from_iterable(text.splitlines() for text in texts):
        if line.startswith("module "):
            name = line.split()[1]
        elif len(line) > _LARGE and name not in names:
            names.append(name)
    return names


def _unchecked(kind: type, nets: Any = ()) -> Any:
    """In the place of `Value.__new__` of Amaranth's netlists."""
    return tuple.__new__(kind, (nets,) if isinstance(nets, int) else nets)


def _emit_contents(emitter, cell_index: int, cell) -> None:
    """In the place of Amaranth's `ModuleEmitter.emit_memory`."""
    from amaranth.hdl._nir import Value

    mask = (1 << cell.width) - 1
    # The last row is the highest part.
    bits = "".join(f"{row & mask:0{cell.width}b}" for row in reversed(cell.init)) if cell.width else ""
    ports = {
        "ADDR": emitter.sigspec(),
        "DATA": f"{len(bits)}'{bits}" if bits else emitter.sigspec(),
        "EN": emitter.sigspec(Value.ones(cell.width)),
    }
    parameters = {
        "MEMID": emitter.memories[cell_index].memid,
        "ABITS": 0,
        "WIDTH": cell.width,
        "WORDS": cell.depth,
        "PRIORITY": 0,
    }
    emitter.builder.cell("$meminit_v2", ports=ports, parameters=parameters, src_loc=cell.src_loc)


def run_yosys(commands: list[str]) -> None:
    """Runs commands on one new design, silently; raises ToolError if Yosys is missing or one of them fails."""
    try:
        from pyosys import libyosys
    except ImportError as error:
        raise ToolError(f"generating Verilog needs Yosys: {install('sim')}") from error
    design = libyosys.Design()
    with _silenced():
        try:
            for command in commands:
                libyosys.run_pass(command, design)
        except Exception as error:
            raise ToolError(f"Yosys failed at {command!r}: {error}") from error


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Yosys prints from C++: only a redirected file descriptor keeps it quiet."""
    saved = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(null)
