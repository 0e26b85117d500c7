from __future__ import annotations

import numpy as np
import pytest

from boards import floorplan as module
from boards.floorplan import SITES, Network, arrange, eliminated, floorplan

DRAW = np.random.default_rng(8)


def laplacian(network: Network) -> np.ndarray:
    result = np.zeros((network.count, network.count))
    for (a, b), strength in zip(network.ends, network.strengths, strict=True):
        result[[a, b], [a, b]] += strength
        result[[a, b], [b, a]] -= strength
    return result


def test_eliminates_as_a_schur_complement():
    count, kept = 60, [3, 17, 40, 41, 59]
    ends = np.array([pair for pair in DRAW.integers(0, count, (200, 2)) if pair[0] != pair[1]])
    free = [node for node in range(count) if node not in kept]
    network = Network(count, ends, DRAW.uniform(0.1, 2, len(ends)))
    whole = laplacian(network)
    inner = whole[np.ix_(free, free)] + 1e-4 * np.eye(len(free))
    expected = -(
        whole[np.ix_(kept, kept)] - whole[np.ix_(kept, free)] @ np.linalg.solve(inner, whole[np.ix_(free, kept)])
    )
    np.fill_diagonal(expected, 0)
    springs, rest = eliminated(network, kept)
    np.testing.assert_allclose(springs, expected, rtol=1e-2, atol=1e-3)
    at = DRAW.uniform(0, 100, (len(kept), 2))
    free_at = np.linalg.solve(inner, -whole[np.ix_(free, kept)] @ at)
    np.testing.assert_allclose(rest @ at, free_at, atol=0.1)
    place = np.zeros((count, 2))
    place[kept], place[free] = at, free_at
    lengths = np.abs(place[ends[:, 0]] - place[ends[:, 1]]).sum(axis=1)
    np.testing.assert_allclose(network.lengths(kept, at, rest), lengths, atol=0.3)


def test_springs_in_series_and_parts_without_any():
    # Two in a row have half the strength; node 3 is alone with 4.
    ends = np.array([[0, 1], [1, 2], [3, 4]])
    springs, _ = eliminated(Network(5, ends, np.ones(3)), [0, 2])
    np.testing.assert_allclose(springs, [[0, 0.5], [0.5, 0]], atol=1e-3)


def test_a_chain_is_laid_out_in_a_row():
    count = 12
    springs = np.zeros((count, count))
    order = DRAW.permutation(count)
    springs[order[:-1], order[1:]] = springs[order[1:], order[:-1]] = 1
    places = np.array([[(x, y) for y in (0, 50) for x in range(8)]], dtype=float)
    kinds = np.zeros(count, np.int64)
    cost, chosen = arrange(springs, kinds, places, np.array([16]), 400_000, 1)
    # Eight fit a row, so the chain crosses over once.
    assert cost == pytest.approx(10 + 50)
    assert len(set(chosen.tolist())) == count
    again = arrange(springs, kinds, places, np.array([16]), 400_000, 1)
    assert (cost, chosen.tolist()) == (again[0], again[1].tolist())


def cell(kind: str, *bits: int | str) -> dict:
    return {"type": kind, "connections": {f"P{place}": [bit] for place, bit in enumerate(bits)}}


def groups(number: int) -> dict[str, dict]:
    """Groups of two multipliers and a memory each, joined by a LUT, with a clock for all."""
    cells = {}
    for group in range(number):
        first = 10 * group + 2
        for place, kind in enumerate(("MULT18X18D", "MULT18X18D", "DP16KD")):
            cells[f"{kind}_{group}_{place}"] = cell(kind, 1, first + place, "0")
        cells[f"lut_{group}"] = cell("LUT4", first, first + 1, first + 2)
    return cells


def test_keeps_together_what_is_connected(monkeypatch):
    monkeypatch.setattr(module, "_MOVES_A_BLOCK", 20_000)
    cells, shares = groups(40), []
    # More pins than a net may have to say anything.
    monkeypatch.setattr(module, "_LARGEST_NET", 100)
    found = floorplan(cells, "85k", progress=shares.append)
    assert set(found) == {name for name in cells if not name.startswith("lut")}
    assert len(set(found.values())) == len(found)
    assert all(site in SITES["85k"][cells[name]["type"]] for name, site in found.items())
    for group in range(40):
        sites = [site for name, site in found.items() if name.split("_")[1] == str(group)]
        assert max(site.x for site in sites) - min(site.x for site in sites) <= 20
        assert max(site.y for site in sites) - min(site.y for site in sites) <= 12
    assert shares == sorted(shares) and shares[-1] == 1


def test_leaves_the_rest_to_nextpnr():
    assert floorplan(groups(5), "85k") == {}
    assert floorplan(groups(40), "25k") == {}
    assert floorplan(groups(79), "85k") == {}


def test_sites_are_all_there_are():
    assert {kind: len(set(sites)) for kind, sites in SITES["85k"].items()} == {"DP16KD": 208, "MULT18X18D": 156}
    assert SITES["85k"]["DP16KD"][0].bel == "X4/Y22/EBR0"
