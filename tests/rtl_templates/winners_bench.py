"""cocotb tests of the components that turn positions into winners: LocalWinners, Compact."""

from __future__ import annotations

import cocotb
import numpy as np

from sim.streams import STALLS, Bench, pack, parameters, unpack, unpack_entry

P = parameters()
LAYOUT = P["layout"]
CHANNELS = max(channel for row in LAYOUT for channel in row) + 1
INDEX_BITS = max(1, (CHANNELS - 1).bit_length())
SIZE = min(P["k"], CHANNELS)
LOW, HIGH = (-128, 127) if P["signed"] else (0, 255)


def positions() -> np.ndarray:
    """Random, few distinct values (ties), extremes, all equal, ascending and descending."""
    draw = np.random.default_rng(7)
    made = [draw.integers(LOW, HIGH + 1, (12, CHANNELS))]
    made += [draw.integers(0, 3, (12, CHANNELS)), draw.choice([LOW, 0, HIGH], (8, CHANNELS))]
    made += [np.full((1, CHANNELS), value) for value in (LOW, LOW + 1, 0, 1, HIGH)]
    rising = np.arange(CHANNELS)[None] % 100
    made += [rising, rising[:, ::-1]]
    return np.concatenate(made)


def to_beats(x: np.ndarray) -> list[int]:
    """Lanes that carry nothing carry noise."""
    return [pack((0x5A if c == -1 else row[c] for c in beat), 8) for row in x.tolist() for beat in LAYOUT]


def winners(row: np.ndarray) -> list[int]:
    """Indices of the k largest, sorted by (-value, index)."""
    return sorted(range(CHANNELS), key=lambda c: (-row[c], c))[: P["k"]]


def expected(x: np.ndarray) -> list:
    result: list = []
    for row in x.tolist():
        if P["emit"] == "compact":
            entries = [(c, v) for c, v in enumerate(row) if v]
            result += entries + [(0, 0)] * (P["k"] - len(entries))
            continue
        kept = winners(row)
        if P["emit"] == "values":
            result += [[row[c] if c in kept else 0 for c in beat] for beat in LAYOUT]
        else:
            least = min(row[c] for c in kept)
            entries = [(c, row[c]) for c in sorted(kept, key=lambda c: (row[c] == least, c))]
            result += [entries] if P["emit"] == "lists" else entries
    return result


def decode(beats: list[int]) -> list:
    if P["emit"] == "values":
        return [unpack(beat, 8, len(LAYOUT[0]), P["signed"]) for beat in beats]
    if P["emit"] == "lists":
        return [
            [
                unpack_entry(entry, INDEX_BITS, 8, P["signed"])
                for entry in unpack(beat, INDEX_BITS + 8, SIZE, signed=False)
            ]
            for beat in beats
        ]
    return [unpack_entry(beat, INDEX_BITS, 8, P["signed"]) for beat in beats]


def stimulus() -> np.ndarray:
    x = positions()
    if P["emit"] == "compact":
        for row in x:
            row[np.random.default_rng(3).permutation(CHANNELS)[: max(0, CHANNELS - P["k"])]] = 0
    return x


@cocotb.test()
async def equals_the_reference_under_stalls(dut):
    x = stimulus()
    wanted = expected(x)
    bench = Bench(dut)
    # The last ones fill every buffer on the way, the memories of values too.
    for stalls in (*STALLS, (0.0, 0.95)):
        bench.stalls(*stalls)
        beats = await bench.run(to_beats(x), len(wanted), 60 * len(wanted) + 4000)
        assert decode(beats) == wanted, stalls


@cocotb.test()
async def reset_in_flight_starts_afresh(dut):
    x = stimulus()[:3]
    wanted = expected(x)
    bench = Bench(dut, 0.1, 0.3)
    for delay in range(1, 60, 3):
        await bench.reset()
        bench.source.send(to_beats(stimulus()[3:]))
        await bench.wait(delay)
        assert decode(await bench.run(to_beats(x), len(wanted), 2000)) == wanted, delay


@cocotb.test()
async def interval_and_latency(dut):
    x = stimulus()
    wanted = expected(x)
    size, loads = len(wanted) // len(x), len(LAYOUT)
    bench = Bench(dut)
    await bench.run(to_beats(x), len(wanted), 100 * len(wanted) + 4000)
    starts = bench.sink.cycles[::size]
    assert set(np.diff(starts)[3:].tolist()) == {P["interval"]}, np.diff(starts)
    assert starts[0] - bench.source.cycles[loads - 1] == P["latency"]
