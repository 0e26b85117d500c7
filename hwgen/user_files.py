"""What the command line is given by name: a model's maker and numpy arrays. Nothing is ever unpickled."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from hwgen.errors import DataError, InputError, install

# Of one array in an archive: a small file may unpack to any size.
LARGEST_ARRAY = 1 << 32


def load_model(source: str) -> Any:
    """The torch module that "file.py:callable" or "module:callable" returns.

    Args:
        source: a Python file or an importable module, a colon, and the name in it: a function without arguments that
            returns a torch.nn.Module, or such a module itself.

    Raises:
        InputError: no such file, module or name, or its code failed.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError(f"importing a model needs torch: {install('torch')}") from error
    where, colon, name = source.rpartition(":")
    if not colon or not where or not name:
        raise InputError(f"model {source!r}: must be file.py:callable or module:callable")
    module = _import(source, where)
    try:
        found = getattr(module, name)
    except AttributeError:
        raise InputError(f"model {source!r}: {where} has no {name!r}") from None
    if isinstance(found, torch.nn.Module):
        return found
    if not callable(found):
        raise InputError(f"model {source!r}: {name} must be a function that returns a torch.nn.Module")
    model = _guarded(source, f"{name}() failed", found)
    if not isinstance(model, torch.nn.Module):
        raise InputError(f"model {source!r}: {name}() returned a {type(model).__name__}, not a torch.nn.Module")
    return model


def _import(source: str, where: str) -> ModuleType:
    path = Path(where)
    # Scripts of a command start with their own folder on the path, not with the user's.
    folder = str(path.parent.resolve() if path.suffix == ".py" else Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    if path.suffix != ".py":
        return _guarded(source, f"cannot import {where}", lambda: importlib.import_module(where))
    if not path.is_file():
        raise InputError(f"model {source!r}: there is no file {where}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    loader = spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    _guarded(source, f"{where} failed", lambda: loader.exec_module(module))
    return module


def _guarded(source: str, what: str, call: Any) -> Any:
    """The user's own code may fail in any way: that is their error, told in one line. What it prints is no result of ours."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return call()
    except (Exception, SystemExit) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"model {source!r}: {what}: {type(error).__name__}: {reason}") from error


def load_array(path: Path) -> np.ndarray:
    """The array of a .npy file.

    Raises:
        DataError: no such file, or not a .npy file of numbers.
    """
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; give a .npy file") from None
    except (ValueError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not a .npy file of numbers ({reason}); write it with numpy.save") from None
    if array.dtype.kind not in "biuf":
        raise DataError(f"{path}: holds {array.dtype}, not numbers; write it with numpy.save")
    return array


def load_labelled(path: Path) -> tuple[np.ndarray, np.ndarray, list[str] | None]:
    """Inputs `x`, labels `y` and, where the file has them, names `classes`, of an .npz file.

    Raises:
        DataError: no such file, not an .npz file, without x or y, or an array that is too large or not of numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            x, y = (_load_member(path, archive, name, "biuf") for name in ("x", "y"))
            named = "classes.npy" in archive.namelist()
            classes = _load_member(path, archive, "classes", "U") if named else None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; give an .npz file with arrays x and y") from None
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: not an .npz file, or a damaged one ({error}); write it with numpy.savez") from None
    if classes is not None and classes.ndim != 1:
        raise DataError(f"{path}: classes must be one list of names, not of shape {classes.shape}")
    return x, y, None if classes is None else classes.tolist()


def _load_member(path: Path, archive: zipfile.ZipFile, name: str, kinds: str) -> np.ndarray:
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        found = ", ".join(sorted(member.removesuffix(".npy") for member in archive.namelist())[:8]) or "nothing"
        raise DataError(
            f"{path}: has no array {name}, but {found}; write it with numpy.savez(path, x=..., y=...)"
        ) from None
    if info.file_size > LARGEST_ARRAY:
        raise DataError(
            f"{path}: {name} takes {info.file_size:,} bytes, more than {LARGEST_ARRAY:,}; give fewer inputs"
        )
    try:
        with archive.open(info) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    # A header that promises more than there is, an unknown compression or a password.
    except (ValueError, EOFError, MemoryError, NotImplementedError, RuntimeError, zlib.error) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: {name} cannot be read ({reason}); write it with numpy.savez") from None
    if array.dtype.kind not in kinds:
        raise DataError(f"{path}: {name} holds {array.dtype}, not {'names' if kinds == 'U' else 'numbers'}")
    return array


def check_output(path: Path, endings: Sequence[str] = ()) -> None:
    """For the path of a result: what is wrong with it is said before the work, rather than after it.

    Args:
        path: of the file to write.
        endings: that its name may have; none for any.

    Raises:
        InputError: there is no such folder, the path is a folder, or the name ends in something else.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the path of a file")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; make it first, or give another path")
    if endings and path.suffix not in endings:
        raise InputError(f"{path}: the name must end in {' or '.join(endings)}")


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes a .npy file under exactly this name.

    Raises:
        InputError: the path cannot be written.
    """
    try:
        with path.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; give a path that can be written") from None
