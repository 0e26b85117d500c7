"""One measurement: every side takes turns in one process, on the cores that it was pinned to before it loaded any."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tempfile
from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import host
import hwgen
from benchmarks.cpu.engines import DeepSparse, Local, Peer, Running, absence, start, version
from benchmarks.cpu.graphs import Graphs
from benchmarks.cpu.networks import Words, in_floats
from benchmarks.cpu.timing import round_robin
from hwgen import terminal
from hwgen.errors import HwgenError, ToolError
from hwgen.format.io import dequantise_output, quantise_input


@dataclass(frozen=True)
class Form:
    """A way to compute the network.

    Attributes:
        engine: "hwgen" or another of `engines.ENGINES`.
        name: of the form; two forms of an engine have different ones.
    """

    engine: str
    name: str

    def __str__(self) -> str:
        return f"{self.engine} ({self.name})"


@dataclass(frozen=True, eq=False)
class Own:
    """A form of hwgen.

    Attributes:
        name: of the form.
        network: a .hwpack file.
        expected: int64 (N, *output shape), the reference's integers for the task's words.
        device: as `host.open` takes it.
        required: an error of the device ends the benchmark; else it is reported as absent.
    """

    name: str
    network: Path
    expected: NDArray[np.int64]
    device: str
    required: bool = True


@dataclass(frozen=True, eq=False)
class Task:
    """What to measure.

    Attributes:
        own: forms of hwgen; the other engines compute the network of the first.
        peers: forms of other engines.
        words: float32 (N, *input shape), computed in turn and compared with the reference.
        calibration: float32 (M, *input shape), for int8 graphs.
        batch: words of a call; divides N and M.
        threads: of every engine.
        calls: of every form, timed.
        deepsparse: the Python of an environment that has it, or None.
    """

    own: tuple[Own, ...]
    peers: tuple[Peer, ...]
    words: Words
    calibration: Words
    batch: int
    threads: int
    calls: int
    deepsparse: Path | None


@dataclass(frozen=True)
class Measured:
    """What was found.

    Attributes:
        seconds: of each form, of each call.
        bit_exact: whether hwgen's outputs, of every form and word, are the reference's.
        versions: of each engine that ran.
        absent: engine or form that did not run -> why.
    """

    seconds: dict[Form, list[float]] = field(default_factory=dict)
    bit_exact: bool = True
    versions: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


def measure_pinned(task: Task, cores: Collection[int]) -> Measured:
    """`measure` in a new process on these cores only.

    Threads inherit the affinity of the thread that starts them, and engines count the cores when they are loaded: only
    a process that was pinned before it loaded any is sure to stay there.

    Raises:
        ToolError: the process crashed.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(measure, task).result()
    except BrokenProcessPool:
        raise ToolError("one of the engines crashed: leave it out, --engine names those to measure") from None
    finally:
        os.sched_setaffinity(0, before)


def measure(task: Task) -> Measured:
    """Starts every form, checks hwgen's outputs and times the forms in turn."""
    measured = Measured()
    exact = True
    batches = task.words.reshape(-1, task.batch, *task.words.shape[1:])
    running: dict[Form, Running] = {}
    with terminal.progress() as report, contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hwgen-cpu-")))
        measured.versions["hwgen"] = version("hwgen")
        for own in task.own:
            report(f"starting hwgen ({own.name})", None)
            try:
                accelerator = stack.enter_context(host.open(own.network, device=own.device))
            except HwgenError as error:
                if own.required:
                    raise
                measured.absent[str(Form("hwgen", own.name))] = str(error)
                continue
            exact &= _is_exact(accelerator, batches, own.expected)
            running[Form("hwgen", own.name)] = Local(accelerator.run, list(batches))
        network = in_floats(hwgen.load(task.own[0].network).network)
        graphs = Graphs(network, task.calibration, task.batch, folder)
        for peer in task.peers:
            form = Form(peer.engine, peer.name)
            report(f"starting {form}", None)
            reason = absence(peer.engine, task.deepsparse)
            if reason is not None:
                measured.absent[peer.engine] = reason
                continue
            try:
                side = start(peer, graphs, batches, task.threads, task.deepsparse)
            # Whatever another engine raises costs its own form only.
            except Exception as error:  # noqa: BLE001
                measured.absent[str(form)] = (str(error).strip() or type(error).__name__).splitlines()[0]
                continue
            stack.callback(side.close)
            running[form] = side
            measured.versions[peer.engine] = side.version if isinstance(side, DeepSparse) else version(peer.engine)
        what = f"{task.calls} calls of {len(running)} forms, {task.batch} words a call, {task.threads} threads"
        seconds = round_robin(list(running.values()), task.calls, lambda share: report(what, share))
    return Measured(dict(zip(running, seconds, strict=True)), exact, measured.versions, measured.absent)


def _is_exact(accelerator: host.Accelerator, batches: Words, expected: NDArray[np.int64]) -> bool:
    """Whether integers and floats of every word are the reference's."""
    network = accelerator.network
    for batch, integers in zip(batches, expected.reshape(*batches.shape[:2], *expected.shape[1:]), strict=True):
        if not np.array_equal(accelerator.run_int(quantise_input(network.input, batch)), integers):
            return False
        if not np.array_equal(accelerator.run(batch), dequantise_output(network, integers)):
            return False
    return True
