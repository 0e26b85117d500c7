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


def pack(
    model: torch.nn.Module, *, calibration: NDArray[np.floating] | None = None, power_of_two: bool = False
) -> PackedNetwork:
    """Imports, quantises and packs a trained model.

    Args:
        model: the module; it is left as it was. One from `hwgen.quantisation_aware` is packed as it computes.
        calibration: float32 (N, C, H, W) or (N, F): typical inputs, which set the scales of the activations. A few
            hundred are enough. A module from `quantisation_aware` has its scales and takes none.
        power_of_two: give every requantisation a shift and no multiplier.

    Raises:
        ModelError: the model cannot be realised exactly; the line names the layer.
        DataError: the calibration data does not fit the model.
        InputError: a module from `quantisation_aware` with calibration data or scales of its own.
    """
    from hwgen.calibration import check_calibration
    from hwgen.finetune import QuantisationAware
    from hwgen.importer import import_for
    from hwgen.packing import pack_network
    from hwgen.quantise import quantise

    if isinstance(model, QuantisationAware):
        if calibration is not None or power_of_two:
            raise InputError(
                "pack: a quantisation-aware model has its scales; give neither calibration nor power_of_two"
            )
        return model.pack()
    if calibration is None:
        raise DataError(
            "calibration: is missing; give typical inputs, a numpy array (N, C, H, W) or (N, F), or a model from "
            "quantisation_aware, which has its scales"
        )
    samples = check_calibration(calibration)
    network = import_for(model, samples)
    return pack_network(quantise(network, samples, power_of_two=power_of_two))


def load(path: str | os.PathLike[str]) -> PackedNetwork:
    """Reads an .hwpack file.

    Raises:
        FormatError: missing, truncated, corrupted, of another version or not an .hwpack file.
        InputError: not a path.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"load: takes the path of an .hwpack file, not {type(path).__name__}")
    return PackedNetwork.load(path)
