"""Where the multiplier and memory blocks of an ECP5 go, decided before nextpnr places the rest.

nextpnr spreads blocks over the chip while their logic is still in one place, from where they hardly move later: blocks
that belong together end up at opposite ends of a full chip. Here they are placed first, by how strongly they are
connected through the logic between them:

1. The netlist is a network of springs, one from each cell to each of its nets. Taking all cells but the blocks out of
   it (a Schur complement of its Laplacian) leaves springs between the blocks alone.
2. Simulated annealing puts the blocks on sites so that the springs, times the distances they bridge, come to little.
3. Where the other cells rest then tells how long each spring is. Made weaker by that, springs pull with the same force
   at every length, as wires cost; so 1 and 2 are done again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

# Raised when the same netlist gets other places.
VERSION = "2"

# Clocks and resets reach everything and say nothing.
_LARGEST_NET = 300
# Fewer blocks find their places by themselves.
_FEWEST_BLOCKS = 32
_ITERATIONS, _TOLERANCE = 200, 5e-4
# Of the annealing: several runs, since one may end in a tangle that costs a few percent.
_ROUNDS, _RUNS, _MOVES_A_BLOCK = 3, 2, 85_000
# Tiles: what is shorter costs as much.
_SHORTEST = 1.0
_HOTTEST, _COLDEST = 60.0, 0.02


@dataclass(frozen=True)
class Site:
    """A place for a block: tile and name, as nextpnr counts them."""

    x: int
    y: int
    name: str

    @property
    def bel(self) -> str:
        """nextpnr's name of it."""
        return f"X{self.x}/Y{self.y}/{self.name}"


def _sites(rows: tuple[int, ...], names: Mapping[int, str]) -> tuple[Site, ...]:
    """Of an LFE5U-85F: blocks repeat every nine columns, but for the clock spine in the middle."""
    columns = [4 + 9 * i for i in range(7)] + [69 + 9 * i for i in range(6)]
    return tuple(
        Site(column + offset, row, name) for row in rows for column in columns for offset, name in names.items()
    )


# By nextpnr's device and Yosys' cell; read off nextpnr's placements of designs that use every block.
SITES: dict[str, dict[str, tuple[Site, ...]]] = {
    "85k": {
        "DP16KD": _sites((22, 46, 70, 82), {0: "EBR0", 2: "EBR1", 4: "EBR2", 6: "EBR3"}),
        "MULT18X18D": _sites((10, 34, 58), {0: "MULT18_0", 1: "MULT18_1", 4: "MULT18_4", 5: "MULT18_5"}),
    }
}


def floorplan(
    cells: Mapping[str, Mapping[str, Any]],
    device: str,
    seed: int = 1,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Site]:
    """A site for each block, by name of the cell.

    Args:
        cells: of Yosys' JSON netlist: type and connections of each.
        device: as nextpnr names it, such as "85k".
        seed: of the annealing.
        progress: is told the share that is done.

    Returns:
        Nothing for a device whose sites are not known here, for few blocks, and for more blocks than sites.
    """
    # um5g-85k has the blocks of 85k, in the same places.
    sites = SITES.get(device.rpartition("-")[2], {})
    names = list(cells)
    kinds = [cells[name]["type"] for name in names]
    blocks = [place for place, kind in enumerate(kinds) if kind in sites]
    counts = {kind: sum(kinds[block] == kind for block in blocks) for kind in sites}
    if len(blocks) < _FEWEST_BLOCKS or any(count > len(sites[kind]) for kind, count in counts.items()):
        return {}
    order = list(sites)
    kind_of = np.array([order.index(kinds[block]) for block in blocks])
    places = np.zeros((len(order), max(map(len, sites.values())), 2))
    for number, kind in enumerate(order):
        places[number, : len(sites[kind])] = [(site.x, site.y) for site in sites[kind]]
    available = np.array([len(sites[kind]) for kind in order])
    network = _network(list(cells.values()))
    chosen = _shortest(network, blocks, kind_of, places, available, seed, progress)
    return {names[block]: sites[kinds[block]][site] for block, site in zip(blocks, chosen.tolist(), strict=True)}


def _shortest(
    network: Network,
    blocks: list[int],
    kinds: NDArray[np.int64],
    places: NDArray[np.float64],
    available: NDArray[np.int64],
    seed: int,
    progress: Callable[[float], None],
) -> NDArray[np.int64]:
    """Each block's site in the round whose springs are shortest; the arguments are those of `arrange`."""
    strengths, rest = network.strengths, None
    found: list[tuple[float, NDArray[np.int64]]] = []
    for number in range(_ROUNDS):
        springs, rest = eliminated(replace(network, strengths=strengths), blocks, rest)
        progress((number + 0.5) / _ROUNDS)
        runs = [
            arrange(springs, kinds, places, available, _MOVES_A_BLOCK * len(blocks), seed * _RUNS + run)
            for run in range(_RUNS)
        ]
        _, chosen = min(runs, key=lambda result: result[0])
        lengths = network.lengths(blocks, places[kinds, chosen], rest)
        found.append((float((network.strengths * lengths).sum()), chosen))
        strengths = network.strengths / np.maximum(lengths, _SHORTEST)
        progress((number + 1) / _ROUNDS)
    return min(found, key=lambda result: result[0])[1]


@dataclass(frozen=True)
class Network:
    """Nodes and springs between them.

    Attributes:
        count: of nodes.
        ends: (springs, 2), the nodes that a spring joins.
        strengths: (springs,).
    """

    count: int
    ends: NDArray[np.int64]
    strengths: NDArray[np.float64]

    def lengths(self, kept: list[int], at: NDArray[np.float64], rest: NDArray[np.float32]) -> NDArray[np.float64]:
        """Of the springs, in tiles, with the kept nodes `at` (kept, 2) and the others where they rest."""
        place = np.zeros((self.count, 2))
        place[_others(self.count, kept)] = rest @ at.astype(np.float32)
        place[kept] = at
        return np.abs(place[self.ends[:, 0]] - place[self.ends[:, 1]]).sum(axis=1)


def _others(count: int, kept: list[int]) -> NDArray[np.bool_]:
    others = np.ones(count, bool)
    others[kept] = False
    return others


def _network(cells: list[Mapping[str, Any]]) -> Network:
    """A node for each cell, in order, and behind them one for each net of more than two cells."""
    nets: dict[int, set[int]] = {}
    for place, cell in enumerate(cells):
        for bits in cell["connections"].values():
            for bit in bits:
                # Constants are strings.
                if isinstance(bit, int):
                    nets.setdefault(bit, set()).add(place)
    pairs = [sorted(net) for net in nets.values() if len(net) == 2]
    stars = [sorted(net) for net in nets.values() if 2 < len(net) <= _LARGEST_NET]
    ends = pairs + [[place, len(cells) + number] for number, net in enumerate(stars) for place in net]
    strengths = np.ones(len(ends))
    # Two in a row.
    strengths[: len(pairs)] = 0.5
    return Network(len(cells) + len(stars), np.array(ends, dtype=np.int64).reshape(-1, 2), strengths)


def eliminated(
    network: Network,
    kept: list[int],
    start: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """The springs that remain between some nodes of a network when the other nodes are left to themselves.

    Args:
        network: nodes and springs.
        kept: the nodes that stay.
        start: where the others rest in a network much like this one, which saves time.

    Returns:
        Strengths, (kept, kept), symmetric, with a diagonal of 0; and where each other node rests, as weights of the kept
        nodes' places, (others, kept).
    """
    from scipy.sparse import coo_array, diags_array

    values, (first_end, second_end) = network.strengths.astype(np.float32), network.ends.T
    half = coo_array((values, (first_end, second_end)), shape=(network.count, network.count)).tocsr()
    adjacency = half + half.T
    free = _others(network.count, kept)
    degrees = adjacency.sum(axis=1)
    # Parts without any spring to what is kept must not make the system singular.
    inner = (diags_array(degrees[free] + np.float32(1e-4)) - adjacency[free][:, free]).tocsr().astype(np.float32)
    pulls = adjacency[free][:, kept].toarray().astype(np.float32)
    # Conjugate gradients for all columns at once: where the free nodes rest if one of those kept is at 1.
    scale = (1 / inner.diagonal())[:, None]
    least = _TOLERANCE**2 * (pulls * scale * pulls).sum(axis=0)
    rest = np.zeros_like(pulls) if start is None else start.copy()
    residual = pulls - inner @ rest
    direction = scale * residual
    norm = (residual * direction).sum(axis=0)
    for _ in range(_ITERATIONS):
        if (norm <= least).all():
            break
        image = inner @ direction
        step = norm / np.maximum((direction * image).sum(axis=0), 1e-30)
        rest += step * direction
        residual -= step * image
        before, scaled = norm, scale * residual
        norm = (residual * scaled).sum(axis=0)
        direction = scaled + norm / np.maximum(before, 1e-30) * direction
    strengths = (adjacency[kept][:, kept].toarray() + pulls.T @ rest).astype(np.float64)
    strengths = np.maximum((strengths + strengths.T) / 2, 0)
    np.fill_diagonal(strengths, 0)
    return strengths, rest


def arrange(
    springs: NDArray[np.float64],
    kinds: NDArray[np.int64],
    places: NDArray[np.float64],
    available: NDArray[np.int64],
    moves: int,
    seed: int,
) -> tuple[float, NDArray[np.int64]]:
    """Blocks on sites of their kind, near those that they are connected with.

    Args:
        springs: (blocks, blocks), see `eliminated`.
        kinds: of each block.
        places: (kinds, sites, 2), the sites of each kind.
        available: sites of each kind; the others are not used.
        moves: that are tried.
        seed: the same one gives the same result.

    Returns:
        The cost, springs times distances, and each block's site.
    """
    draw = np.random.default_rng(seed)
    chosen = np.zeros(len(kinds), np.int64)
    for kind in range(len(available)):
        members = np.flatnonzero(kinds == kind)
        chosen[members] = draw.permutation(available[kind])[: len(members)]
    typical = springs.sum() / max(1, len(springs))
    cost = _anneal(springs, kinds, places, available, chosen, moves, typical * _HOTTEST, typical * _COLDEST, seed)
    return float(cost), chosen


@njit(cache=True)
def _anneal(springs, kinds, places, available, chosen, moves, hottest, coldest, seed):  # pragma: no cover
    """Improves `chosen`, in place, and gives its cost; of the arguments see `arrange`. Compiled, hence without types."""
    np.random.seed(seed)
    count = len(kinds)
    at = np.empty((count, 2))
    occupant = np.full(places.shape[:2], -1)
    for block in range(count):
        at[block] = places[kinds[block], chosen[block]]
        occupant[kinds[block], chosen[block]] = block
    for move in range(moves):
        block = np.random.randint(count)
        kind = kinds[block]
        site = np.random.randint(available[kind])
        if site == chosen[block]:
            continue
        # Whoever is there comes here.
        other = occupant[kind, site]
        x, y = at[block]
        new_x, new_y = places[kind, site]
        change = 0.0
        for third in range(count):
            if third != block and third != other:
                strength = springs[block, third]
                if other >= 0:
                    strength -= springs[other, third]
                nearer = abs(new_x - at[third, 0]) + abs(new_y - at[third, 1])
                change += strength * (nearer - abs(x - at[third, 0]) - abs(y - at[third, 1]))
        temperature = hottest * (coldest / hottest) ** (move / moves)
        if change <= 0 or np.random.random() < np.exp(-change / temperature):
            occupant[kind, chosen[block]] = other
            if other >= 0:
                chosen[other] = chosen[block]
                at[other] = at[block]
            occupant[kind, site] = block
            chosen[block] = site
            at[block, 0], at[block, 1] = new_x, new_y
    cost = 0.0
    for block in range(count):
        for third in range(block):
            distance = abs(at[block, 0] - at[third, 0]) + abs(at[block, 1] - at[third, 1])
            cost += springs[block, third] * distance
    return cost
