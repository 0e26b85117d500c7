"""The trained networks on disk: what `train` writes, `evaluate` reads and the package ships."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import nn
from torch.nn.utils import prune

from hwgen.errors import FormatError, InputError
from hwgen.examples.gsc import networks
from hwgen.format.packed import PackedNetwork

SHIPPED = Path(__file__).parent / "trained"
DENSE, SPARSE, PACKED, RECORD = "dense.safetensors", "sparse.safetensors", "sparse.hwpack", "record.json"
UNFINISHED = "unfinished.json"
# Of a training, in this order: both networks begin at the teacher, which goes on from the start, and the last phase tunes
# the sparse network.
PHASES = ("start", "teacher", "dense", "sparse", "int8")


@dataclass(frozen=True, eq=False)
class Trained:
    """Both networks of one training.

    Attributes:
        dense, sparse: modules in eval mode.
        packed: the sparse one, quantised and fine-tuned so.
        record: how it was trained and what came of it; `speakers` lists all whom training or validation heard.
    """

    dense: nn.Sequential
    sparse: nn.Sequential
    packed: PackedNetwork
    record: Mapping[str, Any]

    def save(self, folder: Path) -> None:
        """Writes the folder; weights as float16, of the sparse network those that masks left."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(_halves(self.dense), folder / DENSE)
        save_file(_halves(self.sparse), folder / SPARSE)
        self.packed.save(folder / PACKED)
        (folder / RECORD).write_text(json.dumps(self.record, indent=1) + "\n")
        for unfinished in (UNFINISHED, *(f"{name}.safetensors" for name in PHASES[:2])):
            (folder / unfinished).unlink(missing_ok=True)


def keep_phase(
    folder: Path, name: str, network: nn.Sequential, seconds: Mapping[str, float], fixed: Mapping[str, Any]
) -> None:
    """Writes the network of a phase that is done, and what decided it."""
    save_file(_halves(network), folder / f"{name}.safetensors")
    (folder / UNFINISHED).write_text(json.dumps({"fixed": fixed, "seconds": seconds}) + "\n")


def finished_phases(folder: Path, fixed: Mapping[str, Any]) -> tuple[dict[str, nn.Sequential], dict[str, float]]:
    """The networks that `keep_phase` wrote, and their seconds; none if something else decided them."""
    try:
        kept = json.loads((folder / UNFINISHED).read_text())
        if kept["fixed"] != json.loads(json.dumps(fixed)):
            return {}, {}
        seconds = {name: float(kept["seconds"][name]) for name in kept["seconds"]}
        return {name: _read(folder / f"{name}.safetensors") for name in seconds}, seconds
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError):
        return {}, {}


def load(folder: Path) -> Trained:
    """What `save` wrote.

    Raises:
        InputError: the folder has no such files.
        FormatError: a file is not what `save` writes.
    """
    if not (folder / RECORD).is_file():
        raise InputError(f"{folder}: no trained networks: make them with python -m hwgen.examples.gsc train")
    try:
        record = json.loads((folder / RECORD).read_text())
        dense, sparse = _read(folder / DENSE), _read(folder / SPARSE)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise FormatError(f"{folder}: not the files of a training: {error}") from error
    return Trained(dense, sparse, PackedNetwork.load(folder / PACKED), record)


def _read(path: Path) -> nn.Sequential:
    """A dense network, or a sparse one if the file says so by its name."""
    if path.name != SPARSE:
        return _filled(networks.dense(0), load_file(path))
    network = networks.sparse(0)
    for name in networks.PATTERNS:
        prune.identity(network.get_submodule(name), "weight")
    return _filled(network, load_file(path))


def _halves(network: nn.Module) -> dict[str, np.ndarray]:
    """Weights, biases and statistics; masked weights as their values and one bit a place."""
    kept = {}
    for name, value in network.state_dict().items():
        if name.endswith("weight_mask"):
            mask = value.numpy().astype(bool)
            kept[name] = np.packbits(mask)
            weight = network.get_parameter(name.removesuffix("_mask") + "_orig").detach().numpy()
            kept[name.removesuffix("_mask") + "_orig"] = weight[mask].astype(np.float16)
        elif not name.endswith("weight_orig"):
            array = value.numpy()
            kept[name] = array.astype(np.float16) if array.dtype == np.float32 else array
    return kept


def _filled(network: nn.Sequential, kept: Mapping[str, np.ndarray]) -> nn.Sequential:
    state = network.state_dict()
    for name, value in state.items():
        stored = kept[name]
        if name.endswith("weight_mask"):
            stored = np.unpackbits(stored, count=value.numel()).reshape(value.shape)
        elif name.endswith("weight_orig"):
            mask_name = name.removesuffix("_orig") + "_mask"
            mask = np.unpackbits(kept[mask_name], count=value.numel()).reshape(value.shape).astype(bool)
            full = np.zeros(value.shape, np.float32)
            full[mask] = stored
            stored = full
        state[name] = torch.from_numpy(np.asarray(stored)).to(value.dtype).reshape(value.shape)
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)
