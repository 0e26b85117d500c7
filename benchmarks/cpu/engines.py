"""Other inference engines, each in the forms that a user would try, and limited to so many threads."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.cpu import timing
from benchmarks.cpu.graphs import INPUT, Graphs, torch_module
from benchmarks.cpu.networks import Words, without_winners
from hwgen.errors import ToolError

ENGINES = ("onnxruntime", "openvino", "torch.compile", "deepsparse")
_MODULES = {
    "onnxruntime": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "onnxruntime", "openvino"),
    "torch.compile": ("torch",),
    "deepsparse": ("onnx", "onnxruntime"),
}
# Share of zeros from which OpenVINO keeps a layer's weights packed; those of the measured layers are above it.
SPARSE_RATE = 0.8


@dataclass(frozen=True)
class Peer:
    """A form of an engine.

    Attributes:
        engine: of `ENGINES`.
        precision: "fp32", zeros of the weights stored like any value, or "int8", quantised statically.
        winners: whether the k-WTA layers are computed, or left out.
        sparse_weights: OpenVINO's storage of weights without zeros.
    """

    engine: str
    precision: str
    winners: bool
    sparse_weights: bool = False

    @property
    def name(self) -> str:
        parts = (self.precision, "k-winners" * self.winners, "sparse weights" * self.sparse_weights)
        return ", ".join(filter(None, parts))


PEERS = (
    *(Peer(e, p, w) for e in ("onnxruntime", "openvino") for p in ("fp32", "int8") for w in (False, True)),
    Peer("openvino", "int8", False, sparse_weights=True),
    *(Peer("torch.compile", "fp32", winners) for winners in (False, True)),
    *(Peer("deepsparse", p, w) for p in ("fp32", "int8") for w in (False, True)),
)
# One layer is compared with ONNX Runtime alone.
LAYER_PEERS = tuple(peer for peer in PEERS if (peer.engine, peer.precision) == ("onnxruntime", "int8"))


class Running(timing.Side, Protocol):
    """A form, ready to be called."""

    def output(self) -> Words:
        """For the first batch."""

    def close(self) -> None:
        """Frees what it holds."""


@dataclass(frozen=True, eq=False)
class Local:
    """A form in this process.

    Attributes:
        call: computes a batch.
        batches: as the engine likes them best.
        array: the float32 array of what `call` returns.
        close: frees what it holds.
    """

    call: Callable[[Any], Any]
    batches: list[Any]
    array: Callable[[Any], Words] = np.asarray
    close: Callable[[], None] = lambda: None

    def block(self, calls: int) -> list[float]:
        return timing.timed(self.call, self.batches, calls)

    def output(self) -> Words:
        return self.array(self.call(self.batches[0]))


def absence(engine: str, deepsparse: Path | None) -> str | None:
    """Why the engine cannot be measured here, or None.

    Args:
        engine: of `ENGINES`.
        deepsparse: the Python of an environment that has it.
    """
    missing = [module for module in _MODULES[engine] if importlib.util.find_spec(module) is None]
    if missing:
        return f"{', '.join(missing)} not installed: pip install -e '.[bench]'"
    if engine == "torch.compile" and shutil.which(os.environ.get("CXX", "g++")) is None:
        return "g++ not found: it compiles what torch generates"
    if engine == "deepsparse" and deepsparse is None:
        return "needs numpy 1, hwgen numpy 2: name the Python of an environment of its own with --deepsparse"
    return None


def version(engine: str) -> str:
    """Of hwgen or of an engine in this process."""
    return importlib.metadata.version(_MODULES.get(engine, (engine,))[-1])


def start(peer: Peer, graphs: Graphs, words: Words, threads: int, deepsparse: Path | None) -> Running:
    """Makes an engine ready.

    Args:
        peer: which engine, in which form.
        graphs: of the network.
        words: float32 (batches, graphs.batch, *input shape).
        threads: of the engine; the affinity of this process says on which cores.
        deepsparse: the Python of an environment that has it.
    """
    if peer.engine == "torch.compile":
        return _torch(graphs, peer.winners, words, threads)
    path = graphs.path(peer.precision, winners=peer.winners)
    if peer.engine == "onnxruntime":
        return _onnxruntime(path, words, threads)
    if peer.engine == "openvino":
        return _openvino(path, words, threads, peer.sparse_weights)
    assert deepsparse is not None
    return DeepSparse(deepsparse, path, words, threads)


def _onnxruntime(path: Path, words: Words, threads: int) -> Local:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its threads may spin during a call, but not through the calls of the side after it.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Errors only: it warns of each constant that an optimisation no longer needs.
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Local(lambda feed: session.run(None, feed), [{INPUT: batch} for batch in words], lambda found: found[0])


def _openvino(path: Path, words: Words, threads: int, sparse_weights: bool) -> Local:
    import openvino

    options: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        # Not bfloat16, where a processor has it.
        "INFERENCE_PRECISION_HINT": "f32",
        # The cores are this process's choice.
        "ENABLE_CPU_PINNING": False,
    }
    if sparse_weights:
        options["CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"] = SPARSE_RATE
    request = openvino.Core().compile_model(path, "CPU", options).create_infer_request()

    def call(feed: dict[int, Words]) -> Any:
        return request.infer(feed, share_inputs=True, share_outputs=True)

    return Local(call, [{0: batch} for batch in words], lambda found: found[0])


def _torch(graphs: Graphs, winners: bool, words: Words, threads: int) -> Local:
    import torch
    from torch._inductor import config

    torch.set_num_threads(threads)
    module = torch_module(graphs.network if winners else without_winners(graphs.network))
    call = torch.inference_mode()(torch.compile(module, dynamic=False))
    batches = [torch.from_numpy(batch) for batch in words]
    # Constant weights: torch lays them out once.
    with config.patch(freezing=True):
        call(batches[0])
    return Local(call, batches, lambda found: found.numpy())


class DeepSparse:
    """DeepSparse in a process of its own, which inherits the affinity of this one and times its own calls.

    Args:
        python: of an environment that has it.
        path: the ONNX graph; the batches are left beside it.
        words: float32 (batches, batch, *input shape).
        threads: of the engine.

    Raises:
        ToolError: it does not start.
    """

    def __init__(self, python: Path, path: Path, words: Words, threads: int) -> None:
        batches, self._log = path.with_suffix(".npy"), path.with_suffix(".log")
        np.save(batches, words)
        command = [str(python), "-m", "benchmarks.cpu.deepsparse_worker", str(path), str(batches), str(threads)]
        try:
            with self._log.open("w") as log:
                self._process = subprocess.Popen(
                    command,
                    cwd=Path(__file__).parents[2],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
        except OSError as error:
            raise ToolError(f"{python}: {error.strerror}; give the Python of an environment with deepsparse") from None
        try:
            first = self._answer()
        except ToolError:
            self.close()
            raise
        self.version: str = first["version"]
        self._output = np.array(first["output"], np.float32)

    def block(self, calls: int) -> list[float]:
        assert self._process.stdin is not None
        print(calls, file=self._process.stdin, flush=True)
        return self._answer()

    def output(self) -> Words:
        return self._output

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            log = self._log.read_text(errors="replace").strip() or "without a message"
            raise ToolError(f"DeepSparse ended: {log.splitlines()[-1]}")
        return json.loads(line)
