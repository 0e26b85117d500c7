"""Errors of the package: one line that names the culprit, what is wrong and what would work.

The command line prints that line and exits with ``exit_code``; it never shows a traceback for these.
"""

from __future__ import annotations


class HwgenError(Exception):
    """Base of every error that hwgen raises on purpose."""

    exit_code = 1


class InputError(HwgenError):
    """Something the user gave cannot be used as it is."""

    exit_code = 2


class ModelError(InputError):
    """A network that hwgen cannot realise exactly."""


class DataError(InputError):
    """An array of the wrong shape, dtype or content."""


class FormatError(InputError):
    """A file that is truncated, corrupted, of another version or not ours."""


class ShapeError(ModelError):
    """Layers that do not take what they get: of the model, or since the calibration data has another shape."""


class PlanError(InputError):
    """A board, a mode or a goal that does not exist or cannot be met."""


class ToolError(HwgenError):
    """A compiler or a simulator that is missing or failed."""


def install(extra: str) -> str:
    """How to install the packages of an extra, such as "sim"; hwgen is on no package index, only in its source folder."""
    return f"pip install -e '.[{extra}]' in the folder of hwgen's source"
