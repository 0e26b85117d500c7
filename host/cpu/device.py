"""The device "cpu": a network as machine code, one word in one call, batches on all cores."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from concurrent.futures import wait
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from host.cpu.isa import PATHS, Isa, choose
from host.cpu.program import Program, processor
from host.cpu.store import stored
from host.cpu.threads import Threads
from hwgen.errors import DataError, InputError
from hwgen.format.network import IntegerNetwork
from hwgen.format.shapes import tensors

# Fewer words a thread are not worth waking it.
LEAST_WORDS = 4
DENSE = "dense"


class Cpu:
    """The network on this processor.

    Arguments:
        network: what to compute.
        isa: the path.
        dense: whether every weight meets every activation, to compare with.
    """

    def __init__(self, network: IntegerNetwork, isa: Isa, *, dense: bool = False) -> None:
        self._program = Program(stored(network, isa, dense=dense, make=lambda: _compiled(network, isa, dense)), isa)
        self._input, self._output = network.input, tensors(network)[-1].shape
        self._offset = 128 if network.input.signed else 0
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._cores, self._process = cores, os.getpid()
        self._threads: Threads | None = None
        # A thread that an interrupted call left behind may still use a workspace: none is ever used by two.
        self._idle: SimpleQueue[NDArray[np.uint8]] = SimpleQueue()
        self._own = self._program.workspace()
        # One word needs neither new arrays nor their addresses.
        self._word = np.zeros((1, *network.input.shape), np.float32)
        self._result = np.zeros((1, *self._output), np.float32)
        places = [array.ctypes.data for array in (self._word, self._result, self._own)]
        self._arguments = np.array([*places[:2], 1, places[2], self._program.block], np.uint64)
        self._one = ctypes.c_void_p(self._arguments.ctypes.data)

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        if len(x) == 1:
            self._word[...] = x
            if self._program.prepared(self._one):
                raise _not_a_number()
            return self._result.copy()
        y = np.empty((len(x), *self._output), np.float32)
        self._batch(self._program.floats, np.ascontiguousarray(x), y)
        return y

    def run_int(self, x: NDArray[np.integer]) -> NDArray[np.int64]:
        words = (x.astype(np.int16) + self._offset).astype(np.uint8, order="C")
        y = np.empty((len(x), *self._output), np.int32)
        self._batch(self._program.integers, words, y)
        return y.astype(np.int64)

    def _batch(self, function: Callable[..., int], x: NDArray[Any], y: NDArray[Any]) -> None:
        """Computes y of x, each thread a share; both are contiguous."""
        shares = max(1, min(self._cores, len(x) // LEAST_WORDS))
        bounds = [len(x) * share // shares for share in range(shares + 1)]

        def compute(share: int) -> int:
            start, count = bounds[share], bounds[share + 1] - bounds[share]
            first = x.ctypes.data + start * x.strides[0], y.ctypes.data + start * y.strides[0]
            try:
                work = self._idle.get_nowait()
            except Empty:
                work = self._program.workspace()
            bad = function(*first, count, work.ctypes.data, self._program.block)
            self._idle.put(work)
            return bad

        others = []
        if shares > 1:
            threads = self._others()
            threads.keep_off()
            others = [threads.submit(compute, share) for share in range(1, shares)]
        try:
            bad = compute(0)
        finally:
            wait(others)
        if bad | max((other.result() for other in others), default=0):
            raise _not_a_number()

    def _others(self) -> Threads:
        """Made when they are needed, and again in a process that was forked: threads do not come along."""
        if self._threads is None or self._process != os.getpid():
            self._threads, self._process = Threads(max(1, self._cores - 1)), os.getpid()
        return self._threads

    @property
    def stats(self) -> Mapping[str, int | float | None]:
        return {}

    def close(self) -> None:
        if self._threads is not None and self._process == os.getpid():
            self._threads.close()


def _not_a_number() -> DataError:
    return DataError("input: contains NaN, which no integer stands for; every value must be a number")


def _compiled(network: IntegerNetwork, isa: Isa, dense: bool) -> Any:
    # Planning and code generation are not needed where the machine code is stored.
    from host.cpu import choice
    from host.cpu.compiler import compiled
    from host.cpu.plan import Planner

    form = choice.dense if dense else choice.best
    return compiled(Planner(network, isa, form).plan(), network.output_scale, isa)


def open_device(network: IntegerNetwork, directory: Path | None, argument: str) -> Cpu:
    """Opens "cpu", "cpu:PATH" with one of `isa.PATHS`, "cpu:dense" or "cpu:PATH,dense"."""
    words = [word for word in argument.split(",") if word]
    paths = [word for word in words if word != DENSE]
    if len(paths) > 1:
        raise InputError(f"device 'cpu:{argument}': takes one of {', '.join(PATHS)}, and {DENSE!r}")
    return Cpu(network, choose(paths[0] if paths else "", processor()[1]), dense=DENSE in words)
