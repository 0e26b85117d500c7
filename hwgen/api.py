"""The stages of `hwgen` as functions: from a trained model to a packed network."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwgen.errors import DataError, InputError
from hwgen.format.packed import PackedNetwork

if TYPE_CHECKING:
    import torch


def pack(model: torch.nn.Module, *, calibration: NDArray[np.floating]) -> PackedNetwork:
    """Imports, quantises and packs a trained model.

    Args:
        model: the module; it is left as it was.
        calibration: float32 (N, C, H, W) or (N, F): typical inputs, which set the scales of the activations. A few
            hundred are enough.

    Raises:
        ModelError: the model cannot be realised exactly; the line names the layer.
        DataError: the calibration data does not fit the model.
    """
    from hwgen.importer import import_torch
    from hwgen.packing import pack_network
    from hwgen.quantise import quantise

    if not isinstance(calibration, np.ndarray) or calibration.ndim not in (2, 4):
        found = calibration.shape if isinstance(calibration, np.ndarray) else type(calibration).__name__
        raise DataError(
            f"calibration: must be a numpy array (N, C, H, W) or (N, F), not {found}; a tensor has .numpy()"
        )
    network = import_torch(model, calibration.shape[1:])
    return pack_network(quantise(network, calibration))


def load(path: str | os.PathLike[str]) -> PackedNetwork:
    """Reads an .hwpack file.

    Raises:
        FormatError: missing, truncated, corrupted, of another version or not an .hwpack file.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"load: takes the path of an .hwpack file, not {type(path).__name__}")
    return PackedNetwork.load(path)
