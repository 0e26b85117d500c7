"""Latencies and initiation intervals of the components, in clock cycles, for planning: arithmetic only.

An interval is what a component needs for a position, a beat or a word in steady state while neither side stalls it.
The benches measure every figure of this file.
"""

from __future__ import annotations

from itertools import pairwise
from math import gcd

STREAM_BUFFER_LATENCY = 1
# Bits of an operand of the ECP5's multiplier blocks, and of the low part of a value that takes two of them: unsigned.
BLOCK_WIDTH = 18
PART_BITS = 17
ADD_BIAS_LATENCY = 2
RELU_LATENCY = 1
NARROW_LATENCY = 2

# From a word's last step to the return of its accumulators, beside the drain: with this rest between words, filling and
# draining two banks in turn takes no longer than the slower of the two.
SCATTER_GAP = 11

# From the end of a bank's reading to the first bin of the next word, beside the bins and the passes themselves.
_GLOBAL_SCAN_OVERHEAD = 2
_GLOBAL_PASS_OVERHEAD = 2

# Of ThresholdSearch beside the bins, and of WinnersReader beside the values: hand-over and the length of the pipeline.
_THRESHOLD_OVERHEAD = 5
_READER_OVERHEAD = 6
_READER_LATENCY = 11


def requantise_parts(bits: int, signed: bool) -> int:
    """Multiplier blocks that Requantise takes for an accumulator; one bit beyond a block's operand takes none."""
    return 1 if bits <= (BLOCK_WIDTH + 1 if signed else BLOCK_WIDTH - 1) else 2


def requantise_latency(bits: int, signed: bool, scales: bool) -> int:
    """Cycles of Requantise.

    Args:
        bits, signed: of an accumulator.
        scales: whether any multiplier is not 1.
    """
    return 5 + (scales and requantise_parts(bits, signed) > 1)


def narrow_interval(lanes_in: int, lanes_out: int) -> int:
    """Cycles that Narrow takes for one input beat."""
    return -(-lanes_in // lanes_out)


def search_steps(channels: int, emit: str, bits: int = 8) -> int:
    """Steps of LocalWinners' search: one a bit of the value, and for "values" one a bit of the index, for ties."""
    return bits + ((channels - 1).bit_length() if emit == "values" else 0)


# Cycles of a step of LocalWinners' search.
STEP_CYCLES = 3


def search_ranges(steps: int, stages: int) -> list[tuple[int, int]]:
    """The steps [first, last) of each search unit, as evenly as they go; no unit is left without."""
    bounds = [steps * i // stages for i in range(stages + 1)]
    return list(pairwise(bounds))


def local_positions(stages: int, emitters: int) -> int:
    """Positions that an emitter of LocalWinners may have stored when it takes another one's marks, that one left out.

    They are in the search, in its registers, in the loader, and one more for the others; each emitter has its share.
    """
    return -(-(stages + 2) // emitters)


# The same of Compact: the next position begins when one has been taken.
COMPACT_POSITIONS = 1


def stored_positions(ahead: int, emit: str) -> int:
    """Positions that the memory of an emitter holds, with `ahead` of them stored when it takes another one's marks.

    Of entries those of the position before are still being read then; of "values" none.
    """
    return ahead + (1 if emit == "values" else 2)


def search_interval(steps: int, stages: int) -> int:
    """Cycles that each of RadixSearch's units takes for one position."""
    return STEP_CYCLES * -(-steps // stages)


def local_interval(
    beats: int, k: int, emit: str, bits: int = 8, *, channels: int, stages: int = 1, emitters: int = 1
) -> int:
    """Cycles that LocalWinners takes for one position.

    Args:
        beats: of a position in the stream.
        k: winners.
        emit: "values", "entries" or "lists".
        bits: of a value.
        channels: values of a position.
        stages: search units in a row, which share the steps.
        emitters: of lists, which take positions in turn.
    """
    search = search_interval(search_steps(channels, emit, bits), stages)
    if emit == "values":
        return max(beats, search)
    return max(beats, search, -(-min(k, channels) // emitters))


def local_latency(channels: int, emit: str, bits: int = 8, k: int = 1) -> int:
    """Cycles from the last beat of a position to its first output beat, while nothing waits; k counts for "lists"."""
    after = {"values": 4, "entries": 8, "lists": 8 + min(k, channels)}
    return STEP_CYCLES * search_steps(channels, emit, bits) + after[emit]


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


def threshold_delay(lanes: int) -> int:
    """Cycles from a bin of ThresholdSearch's scan to its count over all lanes."""
    return 3 + (lanes - 1).bit_length()


def threshold_interval(lanes: int, bits: int = 8) -> int:
    """Cycles that ThresholdSearch takes for one word, beside its beats."""
    return (1 << bits) + threshold_delay(lanes) + _THRESHOLD_OVERHEAD


def reader_interval(count: int, units: int) -> int:
    """Cycles that so many WinnersReaders, which take words of `count` values in turn, take for one word."""
    return -(-(count + _READER_OVERHEAD) // units)


def parallel_global_interval(
    channels: int, positions: int, beats: int, emit: str, units: int, bits: int = 8, *, k: int = 1
) -> int:
    """Cycles that ParallelGlobalWinners takes for one word.

    Args:
        channels, positions: of the map.
        beats: of a word in the stream, which has at least channels * positions / beats lanes.
        emit: "entries", or "values" of a vector.
        units: readers, which take words in turn.
        bits: of a value.
        k: winners; the entries of all words leave on one stream.
    """
    count = channels * positions
    search = threshold_interval(-(-count // beats), bits)
    return max(beats, search, reader_interval(count, units), count if emit == "values" else min(k, count))


def parallel_global_latency(channels: int, positions: int, lanes: int, bits: int = 8) -> int:
    """Cycles from a word's last beat to its first entry in ParallelGlobalWinners, while nothing waits."""
    return threshold_interval(lanes, bits) + channels * positions + _READER_LATENCY


def scatter_interval(steps: int, places: int) -> int:
    """Cycles that ScatterEngine takes for one word.

    Args:
        steps: of the word.
        places: accumulators of the map in each set: beats of the word that comes out.
    """
    return max(steps + SCATTER_GAP, places)


def stream_pool_interval(positions: int, beats: int) -> int:
    """Cycles that StreamPool takes for one word.

    Args:
        positions, beats: of the map that comes.
    """
    return positions * beats


def serial_interval(steps: int, kernels: int, lists: bool) -> int:
    """Cycles that a MacEngine with serial accumulators takes for one group.

    Args:
        steps: of the group.
        kernels: accumulators a set, drained one a cycle.
        lists: of a list stream; what lies between the walker and the accumulators is longer then.
    """
    return steps + max(kernels, 13 if lists else 10)


# Of WindowSweep, beside the reads of a block; of UnrolledConv, from the taps' register to the output.
WINDOW_SWEEP_LATENCY = 6
UNROLLED_POOL_LATENCY = 1
UNROLLED_NARROW_LATENCY = 2


def block_extent(kernel: int, stride: int, pool: int) -> int:
    """Pixels, along an axis, of all positions of a convolution that one window of the pool behind it covers."""
    return kernel + stride * (pool - 1)


def block_reads(kernel: int, stride: int, pool: int, pixels: int) -> tuple[int, int]:
    """Reads of WindowSweep, along the columns, for the first block of a row and for each that follows."""
    step = stride * pool
    columns = gcd(pixels, step)
    return -(-block_extent(kernel, stride, pool) // columns), step // columns


def window_sweep_interval(
    map: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pool: tuple[int, int],
    pixels: int,
    beats: int,
) -> int:
    """Cycles that WindowSweep, and with it UnrolledConv, takes for one word.

    Args:
        map: rows and columns of the input.
        kernel, stride: of the convolution.
        pool: its window, (1, 1) without one.
        pixels: a beat of the input.
        beats: of a block's result.
    """
    rows, columns = (
        (size - block_extent(k, s, p)) // (s * p) + 1 for size, k, s, p in zip(map, kernel, stride, pool, strict=True)
    )
    first, following = block_reads(kernel[1], stride[1], pool[1], pixels)
    pace = max(pool[0] * pool[1], beats)
    in_row = max(pace, first) + (columns - 1) * max(pace, following)
    return max(map[0] * map[1] // pixels, rows * in_row)
