"""Waveforms from VCD to FST, a hundredth of the size: what GTKWave and Surfer open quickest."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from hwgen.errors import ToolError


def to_fst(vcd: Path, fst: Path) -> None:
    """Converts a waveform; the file appears complete or not at all.

    Args:
        vcd: as Verilator writes it: scalars and vectors, no reals and no strings.
        fst: file to write.

    Raises:
        ToolError: pylibfst is missing, or the file cannot be written.
    """
    try:
        import pylibfst
        from vcd.reader import TokenKind, tokenize
    except ImportError as error:
        raise ToolError(
            "writing .fst waveforms needs pylibfst: pip install 'hwgen[sim]', or name a .vcd file"
        ) from error
    library, null = pylibfst.lib, pylibfst.ffi.NULL
    scratch = fst.with_name(f".{fst.name}.{secrets.token_hex(6)}")
    writer = library.fstWriterCreate(os.fsencode(scratch), 1) if fst.parent.is_dir() else null
    if writer == null:
        raise ToolError(f"waveform {fst}: cannot be written")
    handles: dict[str, tuple[int, int]] = {}
    try:
        with vcd.open("rb") as stream:
            for token in tokenize(stream):
                # Its type follows from the token's kind.
                data: Any = token.data
                match token.kind:
                    case TokenKind.TIMESCALE:
                        library.fstWriterSetTimescaleFromString(
                            writer, f"{data.magnitude.value}{data.unit.value}".encode()
                        )
                    case TokenKind.SCOPE:
                        library.fstWriterSetScope(writer, library.FST_ST_VCD_MODULE, data.ident.encode(), null)
                    case TokenKind.UPSCOPE:
                        library.fstWriterSetUpscope(writer)
                    case TokenKind.VAR:
                        # One identifier may stand for several names: FST calls the later ones aliases.
                        alias = handles.get(data.id_code, (0, 0))[0]
                        handle = library.fstWriterCreateVar(
                            writer, library.FST_VT_VCD_WIRE, 0, data.size, _name(data), alias
                        )
                        handles.setdefault(data.id_code, (handle, data.size))
                    case TokenKind.CHANGE_TIME:
                        library.fstWriterEmitTimeChange(writer, data)
                    case TokenKind.CHANGE_SCALAR | TokenKind.CHANGE_VECTOR:
                        handle, size = handles[data.id_code]
                        library.fstWriterEmitValueChange(writer, handle, _bits(data.value, size))
    finally:
        library.fstWriterClose(writer)
        Path(f"{scratch}.hier").unlink(missing_ok=True)
    os.replace(scratch, fst)


def _name(declaration) -> bytes:
    """The name with its range apart, as the viewers expect it."""
    index = declaration.bit_index
    span = f" [{index[0]}:{index[1]}]" if isinstance(index, tuple) else "" if index is None else f" [{index}]"
    return f"{declaration.reference}{span}".encode()


def _bits(value: int | str, size: int) -> bytes:
    """The characters of a value, most significant first."""
    return (f"{value:0{size}b}" if isinstance(value, int) else str(value).rjust(size, "0")).encode()
