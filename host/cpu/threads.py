"""The threads that share a batch with the one that calls, each on another core."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Threads:
    """A pool whose threads keep off the core of the thread that calls.

    A thread that is woken may be put on the core of the one that wakes it, and waits there while others are idle: a batch
    then takes as long as on one core. Linux alone tells the core, and moves threads; elsewhere they go where they go.

    Arguments:
        count: of threads, without the one that calls.
    """

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, "hwgen-cpu", self._began)
        # Of each thread, by its number, the cores that it began with.
        self._lock, self._allowed, self._avoided = threading.Lock(), dict[int, set[int]](), -1
        self._core = getattr(ctypes.CDLL(None), "sched_getcpu", None) if hasattr(os, "sched_setaffinity") else None

    def submit(self, task: Callable[..., Any], *arguments: Any) -> Future[Any]:
        return self._pool.submit(task, *arguments)

    def keep_off(self) -> None:
        """From now on threads keep off the core on which this is called, as long as there is another one for them."""
        core = -1 if self._core is None else self._core()
        if core != self._avoided:
            with self._lock:
                self._avoided = core
                for thread in self._allowed:
                    self._move(thread)

    def close(self) -> None:
        self._pool.shutdown()

    def _began(self) -> None:
        if self._core is not None:
            with self._lock:
                self._allowed[threading.get_native_id()] = os.sched_getaffinity(0)
                self._move(threading.get_native_id())

    def _move(self, thread: int) -> None:
        # Where the system has taken cores away meanwhile, the thread stays where it was put.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(thread, self._allowed[thread] - {self._avoided} or self._allowed[thread])
