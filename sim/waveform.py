"""Waveforms from VCD to FST, a hundredth of the size: what GTKWave and Surfer open quickest."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hwgen.errors import ToolError, install


def to_fst(vcd: Path, fst: Path) -> None:
    """Converts a waveform; the file appears complete or not at all.

    Args:
        vcd: as Verilator writes it: a declaration or a change a line, scalars and vectors only.
        fst: file to write.

    Raises:
        ToolError: pylibfst is missing, or the file cannot be written.
    """
    try:
        import pylibfst
    except ImportError as error:
        raise ToolError(f"writing .fst waveforms needs pylibfst: {install('sim')}, or name a .vcd file") from error
    library, null = pylibfst.lib, pylibfst.ffi.NULL
    scratch = fst.with_name(f".{fst.name}.{secrets.token_hex(6)}")
    writer = library.fstWriterCreate(os.fsencode(scratch), 1) if fst.parent.is_dir() else null
    if writer == null:
        raise ToolError(f"waveform {fst}: cannot be written")
    try:
        try:
            with vcd.open() as stream:
                handles = _declare(library, null, writer, stream)
                for line in stream:
                    _change(library, writer, handles, line)
        finally:
            library.fstWriterClose(writer)
        os.replace(scratch, fst)
    finally:
        scratch.unlink(missing_ok=True)
        Path(f"{scratch}.hier").unlink(missing_ok=True)


def _declare(library: Any, null: Any, writer: Any, stream: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Reads the declarations; returns handle and width of every identifier.

    pyvcd's reader would do, but refuses the names that Amaranth gives to its own signals, which begin with a dollar.
    """
    handles: dict[str, tuple[int, int]] = {}
    for line in stream:
        words = line.split()
        match words:
            case ["$timescale", scale, "$end"]:
                library.fstWriterSetTimescaleFromString(writer, scale.encode())
            case ["$scope", _, name, "$end"]:
                library.fstWriterSetScope(writer, library.FST_ST_VCD_MODULE, name.encode(), null)
            case ["$upscope", "$end"]:
                library.fstWriterSetUpscope(writer)
            case ["$var", _, width, identifier, *name, "$end"]:
                # One identifier may stand for several names: FST calls the later ones aliases.
                alias = handles.get(identifier, (0, 0))[0]
                handle = library.fstWriterCreateVar(
                    writer, library.FST_VT_VCD_WIRE, 0, int(width), " ".join(name).encode(), alias
                )
                handles.setdefault(identifier, (handle, int(width)))
            case ["$enddefinitions", "$end"]:
                break
    return handles


def _change(library: Any, writer: Any, handles: dict[str, tuple[int, int]], line: str) -> None:
    line = line.strip()
    if line.startswith("#"):
        library.fstWriterEmitTimeChange(writer, int(line[1:]))
    elif line and not line.startswith("$"):
        value, identifier = line[1:].split() if line[0] == "b" else (line[0], line[1:])
        handle, width = handles[identifier]
        library.fstWriterEmitValueChange(writer, handle, value.rjust(width, "0").encode())
