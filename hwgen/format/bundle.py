"""The bundle: a folder that holds everything one accelerator is made of.

    manifest.json     what is here, with a SHA-256 of every other file
    net.hwpack        the network, so that the CPU and the hardware can never run different weights
    <top>.v           the Verilog, and its memory images <top>-*.mem beside it
    build/            bitstreams made of the above; no part of the bundle; while it holds one, no other design replaces it

Equal designs give equal bytes: nothing in a bundle depends on the time, the machine or the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hwgen.errors import FormatError, InputError
from hwgen.format.port import Port

FORMAT = "hwgen-bundle"
VERSION = 2
MANIFEST = "manifest.json"
NETWORK = "net.hwpack"
BUILD = "build"
BUILD_RECORD = "build.json"  # in each folder of it
MANIFEST_LIMIT = 16 << 20  # bytes; a plan of a thousand layers is far below


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself.

    Attributes:
        top: the Verilog module and the stem of its file.
        input, output: the ends of the accelerator.
        plan: the plan as JSON values; its meaning belongs to the planner.
        expected: what the plan promises, such as `cycles_per_word`.
        tools: versions of what made the bundle; the only part that is not in the content hash.
        files: SHA-256 of every file of the bundle but the manifest.
        content_hash: SHA-256 that identifies the design.
    """

    top: str
    input: Port
    output: Port
    plan: Any
    expected: dict[str, Any]
    tools: dict[str, str]
    files: dict[str, str]
    content_hash: str


def write_bundle(
    directory: str | os.PathLike[str],
    files: Mapping[str, bytes | Path],
    *,
    input: Port,
    output: Port,
    plan: Any,
    expected: Mapping[str, Any],
    tools: Mapping[str, str],
    top: str = "accelerator",
) -> Manifest:
    """Writes a bundle so that the folder appears complete or not at all.

    Args:
        directory: the folder to make; a bundle that is already there is replaced, unless it has a bitstream and is of
            another design.
        files: content, or a file to copy, for every relative name; `net.hwpack` and `<top>.v` must be among them.
        input, output, plan, expected, tools, top: see `Manifest`.

    Raises:
        InputError: the folder exists and may not be replaced, or cannot be written; a name leads outside the folder; a
            file is missing.
    """
    target = Path(os.path.realpath(directory))
    check_replaceable(target)
    for name in files:
        if not _is_plain(name):
            raise InputError(f"bundle {directory}: {name!r} is not a plain relative file name")
    for name in (NETWORK, f"{top}.v"):
        if name not in files:
            raise InputError(f"bundle {directory}: a bundle needs {name}")
    scratch = target.parent / f".{target.name}.{secrets.token_hex(6)}"
    try:
        scratch.mkdir(parents=True)
        for name, content in files.items():
            path = scratch / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        # Through JSON and back, so that the hash is of what a reader will see (tuples, keys that are numbers).
        values = json.loads(json.dumps([plan, dict(expected), dict(tools)], allow_nan=False))
        document: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "top": top,
            "input": asdict(input),
            "output": asdict(output),
            "plan": values[0],
            "expected": values[1],
            "files": {name: _file_hash(scratch / name) for name in sorted(files)},
        }
        document["content_hash"] = _content_hash(document)
        document["tools"] = values[2]
        text = json.dumps(document, indent=1, sort_keys=True) + "\n"
        if len(text) > MANIFEST_LIMIT:
            raise InputError(f"bundle {directory}: the manifest would exceed {MANIFEST_LIMIT >> 20} MiB")
        (scratch / MANIFEST).write_text(text)
        manifest = read_manifest(scratch, verify=False)
        _keep_build(target, scratch, manifest)
        _put_in_place(scratch, target)
        return manifest
    except OSError as error:
        raise InputError(f"bundle {directory}: cannot write it: {error.strerror} ({error.filename})") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"bundle {directory}: the manifest must consist of JSON values: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def read_manifest(directory: str | os.PathLike[str], verify: bool = True) -> Manifest:
    """Reads and checks a bundle's manifest.

    Args:
        directory: the bundle's folder.
        verify: compares the SHA-256 of every file as well.

    Raises:
        FormatError: the folder is not a bundle, is of another version, is incomplete or was changed.
    """
    directory = Path(directory)
    path = directory / MANIFEST
    document = _read_json(directory, path)
    if document.get("format") != FORMAT:
        raise FormatError(f"{path}: not the manifest of a bundle (format {document.get('format')!r}, not {FORMAT!r})")
    if document.get("version") != VERSION or document["version"] is True:
        raise FormatError(
            f"{path}: version {document.get('version')!r} is not {VERSION}, which this hwgen reads: generate it again"
        )
    manifest = _parse(path, document)
    for name in manifest.files:
        if not _is_plain(name):
            raise FormatError(f"{path}: file name {name!r} leads outside the bundle")
    for name in (NETWORK, f"{manifest.top}.v"):
        if name not in manifest.files:
            raise FormatError(f"{path}: does not list {name}")
    if manifest.content_hash != _content_hash(document):
        raise FormatError(f"{path}: was changed after it was written: generate the bundle again")
    for name, expected in manifest.files.items():
        if not (directory / name).is_file():
            raise FormatError(f"{directory / name}: missing, though the manifest lists it: generate the bundle again")
        if verify and _file_hash(directory / name) != expected:
            raise FormatError(f"{directory / name}: does not match its SHA-256: generate the bundle again")
    return manifest


def _read_json(directory: Path, path: Path) -> dict[str, Any]:
    if not directory.is_dir():
        raise FormatError(f"{directory}: no such bundle; name a folder that hwgen generate made")
    try:
        with path.open("rb") as file:
            content = file.read(MANIFEST_LIMIT + 1)
    except OSError as error:
        raise FormatError(
            f"{directory}: not a bundle: cannot read {MANIFEST} ({error.strerror}); name a folder that hwgen generate made"
        ) from error
    if len(content) > MANIFEST_LIMIT:
        raise FormatError(f"{path}: larger than {MANIFEST_LIMIT >> 20} MiB, which no manifest is")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not valid JSON ({error}): generate the bundle again") from error
    if not isinstance(document, dict):
        raise FormatError(f"{path}: not the manifest of a bundle (a JSON object)")
    return document


def _parse(path: Path, document: dict[str, Any]) -> Manifest:
    def field(name: str, kind: type) -> Any:
        value = document.get(name)
        if not isinstance(value, kind):
            raise FormatError(f"{path}: {name!r} is missing or not a {kind.__name__}")
        return value

    def strings(name: str) -> dict[str, str]:
        value = field(name, dict)
        if not all(isinstance(item, str) for item in value.values()):
            raise FormatError(f"{path}: {name!r} must map names to strings")
        return dict(value)

    top = field("top", str)
    if not top.isidentifier() or not top.isascii():
        raise FormatError(f"{path}: top {top!r} is not the name of a Verilog module")
    return Manifest(
        top=top,
        input=_parse_port(path, "input", field("input", dict)),
        output=_parse_port(path, "output", field("output", dict)),
        plan=document.get("plan"),
        expected=field("expected", dict),
        tools=strings("tools"),
        files=strings("files"),
        content_hash=field("content_hash", str),
    )


def _parse_port(path: Path, name: str, value: dict[str, Any]) -> Port:
    try:
        if set(value) != {"lanes", "bits", "signed", "shape", "layout", "pixels"} or type(value["signed"]) is not bool:
            raise InputError("must have lanes, bits, signed, shape, layout and pixels")
        shape, layout = tuple(value["shape"]), tuple(tuple(row) for row in value["layout"])
        numbers = [
            value["lanes"],
            value["bits"],
            value["pixels"],
            *shape,
            *(channel for row in layout for channel in row),
        ]
        if any(type(number) is not int for number in numbers):
            raise InputError("must consist of integers")
        return Port(value["lanes"], value["bits"], value["signed"], shape, layout, value["pixels"])
    except (InputError, TypeError) as error:
        raise FormatError(f"{path}: {name!r} is not a port: {error}") from error


def _is_plain(name: str) -> bool:
    """Whether a name stays inside the folder on every system, and is not the manifest's own."""
    parts = PurePosixPath(name).parts
    plain = bool(parts) and str(PurePosixPath(*parts)) == name and not {"..", ".", "/"} & set(parts)
    ours = name == MANIFEST or parts[:1] == (BUILD,)
    return plain and name.isprintable() and not set(name) & set('\\:"') and not ours


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _content_hash(document: Mapping[str, Any]) -> str:
    """SHA-256 over the sorted (name, SHA-256) pairs and the rest of the manifest without the tools."""
    content = {name: value for name, value in document.items() if name not in ("tools", "content_hash")}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_replaceable(target: Path) -> None:
    """Raises InputError where a bundle cannot be put, or may not: something that is not a bundle is there."""
    parent = next(folder for folder in target.absolute().parents if folder.exists())
    # Permissions alone do not tell: file systems can be full or read-only.
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".", dir=parent))
    except OSError as error:
        raise InputError(f"{target}: cannot be made in {parent} ({error.strerror}); name another folder") from None
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        document = _read_json(target, target / MANIFEST)
        is_bundle = document.get("format") == FORMAT
    except FormatError:
        is_bundle = False
    if not is_bundle:
        raise InputError(f"{target}: exists and is not a bundle, so it is not replaced: name another folder")
    listed = document.get("files")
    known = {MANIFEST, *(listed if isinstance(listed, dict) else ())}
    for path in sorted(target.rglob("*")):
        name = path.relative_to(target).as_posix()
        if path.is_file() and name not in known and not _is_built(target, path):
            raise InputError(
                f"{target}: {name} is no part of the bundle there and would be lost: move it away or name another folder"
            )


def _is_built(target: Path, path: Path) -> bool:
    """Whether a file lies in the folder of a board for which a bitstream was made."""
    parts = path.relative_to(target).parts
    return parts[0] == BUILD and len(parts) == 3 and (target / BUILD / parts[1] / BUILD_RECORD).is_file()


def _keep_build(target: Path, scratch: Path, manifest: Manifest) -> None:
    """Moves what was built of the bundle there to the one that replaces it, if both are of the same design.

    Raises InputError where a bitstream, which may have taken hours, would be lost.
    """
    same = False
    with contextlib.suppress(FormatError):
        same = read_manifest(target, verify=False).content_hash == manifest.content_hash
    if same:
        with contextlib.suppress(FileNotFoundError):
            (target / BUILD).rename(scratch / BUILD)
    elif bitstreams := sorted(target.glob(f"{BUILD}/*/*.bit")):
        raise InputError(
            f"{target}: has the bitstream {bitstreams[0].relative_to(target)} of another design, so it is not "
            "replaced: name another folder, or delete this one first"
        )


def _put_in_place(scratch: Path, target: Path) -> None:
    if not target.exists():
        scratch.rename(target)
        return
    old = scratch.with_name(f"{scratch.name}.old")
    target.rename(old)
    try:
        scratch.rename(target)
    except OSError:
        with contextlib.suppress(OSError):
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
