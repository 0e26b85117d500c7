"""Latencies and initiation intervals of the components, in clock cycles, for planning: arithmetic only.

An interval is what a component needs for a position, a beat or a word in steady state while neither side stalls it.
The benches measure every figure of this file.
"""

from __future__ import annotations

from itertools import pairwise

STREAM_BUFFER_LATENCY = 1
REQUANTISE_LATENCY = 4
ADD_BIAS_LATENCY = 2
RELU_LATENCY = 1
NARROW_LATENCY = 2

# From a word's last step to the return of its accumulators, beside the drain: with this rest between words, filling and
# draining two banks in turn takes no longer than the slower of the two.
SCATTER_GAP = 11

# From the end of a bank's reading to the first bin of the next word, beside the bins and the passes themselves.
_GLOBAL_SCAN_OVERHEAD = 2
_GLOBAL_PASS_OVERHEAD = 2


def narrow_interval(lanes_in: int, lanes_out: int) -> int:
    """Cycles that Narrow takes for one input beat."""
    return -(-lanes_in // lanes_out)


def search_steps(channels: int, emit: str, bits: int = 8) -> int:
    """Steps of LocalWinners' search: one a bit of the value, and for "values" one a bit of the index, for ties."""
    return bits + ((channels - 1).bit_length() if emit == "values" else 0)


def search_ranges(steps: int, stages: int) -> list[tuple[int, int]]:
    """The steps [first, last) of each search unit, as evenly as they go; no unit is left without."""
    bounds = [steps * i // stages for i in range(stages + 1)]
    return list(pairwise(bounds))


def local_latency(channels: int, emit: str, bits: int = 8) -> int:
    """Cycles from the last beat of a position to its first output beat, while nothing waits."""
    return search_steps(channels, emit, bits) + (2 if emit == "values" else 3)


def interval(beats: int, k: int, emit: str, bits: int = 8, *, channels: int, stages: int = 1) -> int:
    """Cycles that LocalWinners takes for one position.

    Args:
        beats: of a position in the stream.
        k: winners.
        emit: "values" or "entries".
        bits: of a value.
        channels: values of a position.
        stages: search units in a row, which share the steps.
    """
    emitted = beats if emit == "values" else min(k, channels)
    return max(beats, -(-search_steps(channels, emit, bits) // stages), emitted)


def compact_interval(beats: int, size: int) -> int:
    """Cycles that Compact takes for one position."""
    return max(beats, size)


def global_interval(channels: int, positions: int, emit: str, bits: int = 8) -> int:
    """Cycles that GlobalWinners takes for one word.

    Args:
        channels, positions: of the map.
        emit: "values" or "entries".
        bits: of a value.
    """
    passes = 2 if emit == "values" else 1
    count = channels * positions
    return (1 << bits) + _GLOBAL_SCAN_OVERHEAD + passes * (count + _GLOBAL_PASS_OVERHEAD)


def scatter_interval(steps: int, places: int) -> int:
    """Cycles that ScatterEngine takes for one word.

    Args:
        steps: of the word.
        places: accumulators of the map in each set: beats of the word that comes out.
    """
    return max(steps + SCATTER_GAP, places)
