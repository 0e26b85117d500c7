"""Blocks of calls, each call timed alone, the sides taking turns. Needs nothing: DeepSparse's Python imports it too."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

# A block begins with calls that do not count: they bring the side's weights back into the caches, and give the threads
# of the side before time to fall asleep.
UNTIMED = 2
# Turns of each side, so that a burst of load on the machine meets all of them.
ROUNDS = 20


class Side(Protocol):
    """What takes turns."""

    def block(self, calls: int) -> list[float]:
        """Seconds of each of so many calls in a row."""


def timed(call: Callable[[Any], Any], batches: Sequence[Any], calls: int) -> list[float]:
    """Seconds of each call, on one input after another."""
    seconds = []
    clock = time.perf_counter
    for index in range(-UNTIMED, calls):
        batch = batches[index % len(batches)]
        start = clock()
        call(batch)
        end = clock()
        if index >= 0:
            seconds.append(end - start)
    return seconds


def round_robin(sides: Sequence[Side], calls: int, report: Callable[[float], None]) -> list[list[float]]:
    """Seconds of at least `calls` calls of each side, after a round that is not counted.

    Args:
        sides: in any order: each round shuffles them, so that none always follows the same other.
        calls: of each side.
        report: told the share that is done.
    """
    block = -(-calls // ROUNDS)
    rounds = -(-calls // block)
    seconds: list[list[float]] = [[] for _ in sides]
    order = list(range(len(sides)))
    shuffle = random.Random(0).shuffle
    gc.disable()
    try:
        for number in range(-1, rounds):
            shuffle(order)
            for index in order:
                found = sides[index].block(block)
                if number >= 0:
                    seconds[index] += found
            report((number + 2) / (rounds + 1))
    finally:
        gc.enable()
    return seconds
