"""Compiled things on disk: built once, checked with our own SHA-256 before every use, safe with several processes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from hwgen.errors import ToolError

DIGESTS = "sha256.json"


def key_of(*parts: str | bytes) -> str:
    """A key that differs wherever any part differs."""
    digest = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else part.encode()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()[:40]


def folder() -> Path:
    """The user's cache folder: $HWGEN_CACHE, or hwgen under $XDG_CACHE_HOME or ~/.cache.

    Raises:
        ToolError: it cannot be made, or others could write into it and so have their code run.
    """
    named = os.environ.get("HWGEN_CACHE")
    path = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hwgen"
    path = path.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise ToolError(f"cache folder {path}: {error.strerror}: set HWGEN_CACHE to a folder of yours") from error
    if status.st_uid != os.getuid():
        raise ToolError(f"cache folder {path}: belongs to another user: set HWGEN_CACHE to a folder of yours")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ToolError(f"cache folder {path}: others can write there: chmod 700 it, or set HWGEN_CACHE to another")
    return path


def entry(name: str, build: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, built if it is missing or does not match its digests.

    Args:
        name: a plain file name that identifies the content.
        build: writes the content into the empty folder that it is given; whatever it raises leaves nothing behind.

    Raises:
        ToolError: the folder cannot be used, or a file in it cannot be written.
    """
    root = folder()
    final = root / name
    if _intact(final):
        return final
    try:
        return _built(root, name, build)
    except OSError as error:
        raise ToolError(
            f"cache folder {root}: {error.strerror}: make room there and let yourself write, or set HWGEN_CACHE to another"
        ) from error


def _built(root: Path, name: str, build: Callable[[Path], None]) -> Path:
    final = root / name
    with _locked(root / f"{name}.lock"):
        # Another process may have built it while this one waited.
        if _intact(final):
            return final
        scratch = Path(tempfile.mkdtemp(prefix=f".{name[:12]}-", dir=root))
        try:
            built = scratch / "new"
            built.mkdir()
            build(built)
            digests = {path.name: _digest(path) for path in built.iterdir()}
            (built / DIGESTS).write_text(json.dumps(digests, sort_keys=True))
            if final.exists():
                # Moved, not deleted in place: a process that has loaded it keeps its files.
                final.rename(scratch / "old")
            built.rename(final)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return final


def _intact(path: Path) -> bool:
    try:
        digests = json.loads((path / DIGESTS).read_text())
        files = {file.name for file in path.iterdir()} - {DIGESTS}
        return bool(files) and set(digests) == files and all(_digest(path / name) == digests[name] for name in files)
    except (OSError, ValueError, AttributeError):
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One builder at a time; the kernel drops the lock of a process that dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
