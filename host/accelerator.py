"""An opened accelerator: floats or integers in and out, whatever computes behind it."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from host.devices import Device, RealDevice, open_device
from hwgen.errors import DataError, FormatError, InputError
from hwgen.format.bundle import NETWORK, Manifest, read_manifest
from hwgen.format.network import IntegerNetwork
from hwgen.format.shapes import Tensor, tensors

_FLOAT32 = np.dtype(np.float32)
# Batches of a stream under way: one computes while the next is quantised.
STREAM_DEPTH = 2


@dataclass(frozen=True)
class Statistics:
    """What an accelerator has done since it was opened.

    Attributes:
        words: inferences.
        seconds: time that the device took, in all.
        cycles: clock cycles, or None for a device without a clock.
        cycles_per_word: between successive words of the last batch that had two or more, or None.
        bytes_in, bytes_out: moved to and from the device.
    """

    words: int = 0
    seconds: float = 0.0
    cycles: int | None = None
    cycles_per_word: float | None = None
    bytes_in: int = 0
    bytes_out: int = 0

    @property
    def words_per_second(self) -> float:
        return self.words / self.seconds if self.seconds else 0.0


class Accelerator:
    """A network on a device; close it, or use it in a `with` statement. Safe to use from several threads."""

    def __init__(self, network: IntegerNetwork, device: Device) -> None:
        self.network = network
        self._device = device
        flow = tensors(network)
        self._input, self._output = flow[0], flow[-1]
        self._one_word = (1, *self._input.shape)
        # A head is computed here, of the integers and in double precision.
        self._real = device if isinstance(device, RealDevice) and network.head is None else None
        self._words, self._seconds = 0, 0.0
        self._lock = threading.Lock()
        self._worker: ThreadPoolExecutor | None = None
        self._closed = False

    def run(self, x: ArrayLike) -> NDArray[np.float32]:
        """Real values in and out: quantises, computes, scales, and applies the final softmax if there is one.

        Args:
            x: float32 (N, *input shape).

        Returns:
            float32 (N, *output shape), in C order.

        Raises:
            DataError: the wrong shape or dtype, or a NaN.
        """
        real = self._real
        if real is None or type(x) is not np.ndarray or x.dtype != _FLOAT32:
            return self._dequantise(self.run_int(self._quantise(x)))
        if x.shape != self._one_word:
            _check_shape(x, self._input)
            if not len(x):
                return self._dequantise(self._compute(x))
        # What `_compute` does, written out: a call takes microseconds, and real devices answer in C order.
        with self._lock:
            self._check_open()
            start = perf_counter()
            y = real.run(x)
            self._seconds += perf_counter() - start
            self._words += len(x)
        return y

    def run_int(self, x: NDArray[np.integer]) -> NDArray[np.int64]:
        """Integers in and out, neither scaled nor normalised.

        Args:
            x: integers (N, *input shape), in [-128, 127] for a signed input, else in [0, 255].

        Returns:
            int64 (N, *output shape), in C order.

        Raises:
            DataError: the wrong shape or dtype, or a value out of range.
        """
        x = np.asarray(x)
        _check_shape(x, self._input)
        if x.dtype.kind not in "iu":
            raise DataError(f"input: run_int takes integers, not {x.dtype}: use run for real values")
        if x.size and (int(x.min()) < self._input.low or int(x.max()) > self._input.high):
            raise DataError(
                f"input: values must lie in [{self._input.low}, {self._input.high}], but lie in [{x.min()}, {x.max()}]"
            )
        return self._compute(x)

    def submit(self, x: ArrayLike) -> Future[NDArray[np.float32]]:
        """Starts `run` and returns at once. Batches are computed in the order in which they were submitted.

        Raises:
            DataError: as `run`; x is checked and quantised before this returns, so it may be changed afterwards.
        """
        quantised = self._quantise(x)
        with self._lock:
            self._check_open()
            if self._worker is None:
                self._worker = ThreadPoolExecutor(1, thread_name_prefix="hwgen-accelerator")
            return self._worker.submit(lambda: self._dequantise(self.run_int(quantised)))

    def stream(self, batches: Iterable[ArrayLike]) -> Iterator[NDArray[np.float32]]:
        """`run` on each batch, in order, one batch ahead of the caller."""
        pending: deque[Future[NDArray[np.float32]]] = deque()
        try:
            for batch in batches:
                pending.append(self.submit(batch))
                if len(pending) >= STREAM_DEPTH:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    @property
    def stats(self) -> Statistics:
        """What was done so far; a snapshot."""
        with self._lock:
            if not self._words:
                return Statistics()
            counted = Statistics(
                words=self._words,
                seconds=self._seconds,
                # Values in whole bytes, unless the device knows what it moved.
                bytes_in=self._words * _word_bytes(self._input),
                bytes_out=self._words * _word_bytes(self._output),
            )
            return replace(counted, **self._device.stats)  # type: ignore[arg-type]

    def close(self) -> None:
        """Waits for what was submitted and frees the device; a second call does nothing."""
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.shutdown()
        with self._lock:
            if not self._closed:
                self._closed = True
                self._device.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _compute(self, x: NDArray[Any]) -> NDArray[np.int64]:
        with self._lock:
            self._check_open()
            if not len(x):
                return np.zeros((0, *self._output.shape), np.int64)
            start = perf_counter()
            # Devices differ in the order in which they make values; callers need not.
            y = np.ascontiguousarray(self._device.run_int(x))
            self._seconds += perf_counter() - start
            self._words += len(x)
        return y

    def _array(self, x: ArrayLike) -> NDArray[Any]:
        try:
            values = np.asarray(x)
        except ValueError as error:
            raise DataError("input: not an array: its rows differ in length") from error
        _check_shape(values, self._input)
        return values

    def _quantise(self, x: ArrayLike) -> NDArray[Any]:
        from hwgen.format.io import quantise_input

        return quantise_input(self.network.input, self._array(x))

    def _dequantise(self, y: NDArray[np.int64]) -> NDArray[np.float32]:
        from hwgen.format.io import dequantise_output

        return dequantise_output(self.network, y)

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("this accelerator is closed: open it again with host.open")


def open(path: str | os.PathLike[str], device: str = "reference") -> Accelerator:
    """Opens a bundle, or for the devices "reference" and "cpu" a .hwpack file.

    Args:
        path: a bundle's folder or a .hwpack file.
        device: "reference", "cpu", "sim", or another that was registered. "cpu:PATH" takes one of the paths of
            `host.cpu.isa` instead of the fastest, "cpu:dense" skips no zeros.

    Raises:
        FormatError: the bundle or file is damaged or of another version.
        InputError: there is nothing at `path`, no such device, or the device needs a bundle.
        ToolError: something that the device needs is not installed.
    """
    from hwgen.format.packed import PackedNetwork

    if not isinstance(path, str | os.PathLike):
        raise InputError(f"open: takes the path of a bundle or an .hwpack file, not {type(path).__name__}")
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such bundle or .hwpack file")
    directory = path if path.is_dir() else None
    manifest = read_manifest(path) if directory else None
    network = PackedNetwork.load(path / NETWORK if directory else path).network
    if manifest:
        _check_ports(path, manifest, network)
    return Accelerator(network, open_device(device, network, directory))


def _check_ports(path: Path, manifest: Manifest, network: IntegerNetwork) -> None:
    flow = tensors(network)
    for name, port, tensor in (("input", manifest.input, flow[0]), ("output", manifest.output, flow[-1])):
        low, high = port.range
        if port.shape != tensor.shape or low > tensor.low or high < tensor.high:
            raise FormatError(f"{path}: the {name} port of the manifest does not fit the network: generate it again")


def _word_bytes(tensor: Tensor) -> int:
    return int(np.prod(tensor.shape)) * -(-tensor.bits // 8)


def _check_shape(x: NDArray[Any], tensor: Tensor) -> None:
    shape = x.shape
    # A call takes microseconds: the usual case comes first.
    if shape[1:] == tensor.shape:
        return
    if shape == tensor.shape:
        raise DataError(f"input: shape {shape} is a single word: add the batch dimension, x[None]")
    wanted = ", ".join(map(str, tensor.shape))
    raise DataError(f"input: shape {shape} does not fit the network, which takes (N, {wanted})")
