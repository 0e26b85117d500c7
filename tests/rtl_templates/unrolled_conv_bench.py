"""cocotb tests of UnrolledConv."""

from __future__ import annotations

import cocotb
import numpy as np

from sim.streams import STALLS, Bench, pack, parameters, unpack

P = parameters()
WEIGHTS = np.array(P["weights"])
LOW, HIGH = P["low"], P["high"]
WORDS = 5


def words(count: int) -> np.ndarray:
    """(count, channels, rows, columns): random, extremes, all equal."""
    draw = np.random.default_rng(11)
    size = (P["channels"], *P["map"])
    made = [draw.integers(LOW, HIGH + 1, size), draw.choice([LOW, HIGH], size), np.full(size, LOW), np.full(size, HIGH)]
    made += [draw.integers(LOW, HIGH + 1, size) for _ in range(count)]
    return np.stack(made[:count])


def to_beats(x: np.ndarray) -> list[int]:
    pixels = x.transpose(0, 2, 3, 1).reshape(-1, P["pixels"] * P["channels"])
    return [pack(beat, P["bits"]) for beat in pixels.tolist()]


def reference(x: np.ndarray) -> np.ndarray:
    """Convolution, then the largest of each window: (positions of all words, outputs)."""
    (rows, columns), (down, right), pool = P["kernel"], P["stride"], P["pool"]
    windows = np.lib.stride_tricks.sliding_window_view(x, (rows, columns), axis=(2, 3))[:, :, ::down, ::right]
    sums = windows.transpose(0, 2, 3, 1, 4, 5).reshape(*windows.shape[0:1], *windows.shape[2:4], -1) @ WEIGHTS
    height, width = (size // part for size, part in zip(sums.shape[1:3], pool, strict=True))
    sums = sums[:, : height * pool[0], : width * pool[1]]
    return sums.reshape(len(x), height, pool[0], width, pool[1], -1).max(axis=(2, 4)).reshape(-1, WEIGHTS.shape[1])


def expected(x: np.ndarray) -> list[list[int]]:
    result = reference(x)
    beats = -(-result.shape[1] // P["lanes"])
    padded = np.pad(result, ((0, 0), (0, beats * P["lanes"] - result.shape[1])))
    return padded.reshape(-1, P["lanes"]).tolist()


def decode(beats: list[int]) -> list[list[int]]:
    return [unpack(beat, P["accumulator"], P["lanes"], True) for beat in beats]


@cocotb.test()
async def equals_the_reference_under_stalls(dut):
    x = words(3 if P["large"] else WORDS)
    wanted = expected(x)
    bench = Bench(dut)
    for stalls in STALLS[2:4] if P["large"] else STALLS:
        bench.stalls(*stalls)
        assert decode(await bench.run(to_beats(x), len(wanted), 10 * len(x) * P["interval"] + 4000)) == wanted, stalls


@cocotb.test(skip=P["large"])
async def waits_for_its_reader(dut):
    x = words(WORDS)
    wanted = expected(x)
    bench = Bench(dut)
    bench.stalls(0.0, 0.98)
    # What is not taken stops the input, and nothing is lost.
    assert decode(await bench.run(to_beats(x), len(wanted), 100 * len(wanted) + 4000)) == wanted


@cocotb.test(skip=P["large"])
async def reset_in_flight_starts_afresh(dut):
    x = words(2)
    wanted = expected(x)
    bench = Bench(dut, 0.1, 0.3)
    for delay in [*range(1, 40, 7), P["interval"] // 2, P["interval"] + 3, P["interval"] + 10]:
        await bench.reset()
        bench.source.send(to_beats(words(WORDS)[2:]))
        await bench.wait(delay)
        assert decode(await bench.run(to_beats(x), len(wanted), 20 * P["interval"] + 4000)) == wanted, delay


@cocotb.test()
async def interval_and_latency(dut):
    x = words(WORDS)
    wanted = expected(x)
    bench = Bench(dut)
    await bench.run(to_beats(x), len(wanted), 10 * WORDS * P["interval"] + 4000)
    ends = bench.sink.cycles[len(wanted) // WORDS - 1 :: len(wanted) // WORDS]
    assert set(np.diff(ends)[1:].tolist()) == {P["interval"]}, np.diff(ends)
    last = P["rows"] * P["map"][1] // P["pixels"] - 1
    assert bench.sink.cycles[0] - bench.source.cycles[last] == P["latency"]
