"""How near a mask is to tile-wise sparsity."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

BEAM = 512

# Outputs that joined tiles, the last one first.
_Joined: TypeAlias = "tuple[int, _Joined] | None"


def fewest_singles(mask: NDArray[np.bool_], tile: int) -> int:
    """The fewest elements whose removal leaves a tile-wise mask, as far as the search of `tile_part` finds them."""
    return int(np.count_nonzero(mask & ~tile_part(mask, tile)))


def tile_part(mask: NDArray[np.bool_], tile: int) -> NDArray[np.bool_]:
    """The tile-wise mask that leaves the fewest elements of `mask`, as far as a beam search finds it.

    The outputs are decided in their order: each is pruned, at the cost of all its elements, or joins the open tile,
    which costs what its inputs and those that the tile had in common till then do not share. Only the cheapest
    `BEAM` states are followed.

    Args:
        mask: bool (outputs, inputs).
        tile: outputs of a tile.
    """
    # An open tile: its members and the inputs that they have in common, as an integer of bits. What led there.
    states: dict[tuple[int, int], tuple[int, _Joined]] = {(0, 0): (0, None)}
    for output in np.flatnonzero(mask.any(axis=1)).tolist():
        inputs = int.from_bytes(np.packbits(mask[output]).tobytes())
        size = inputs.bit_count()
        following: dict[tuple[int, int], tuple[int, _Joined]] = {}
        for (members, common), (cost, joined) in states.items():
            moves = [((members, common), cost + size, joined)]
            shared = common & inputs if members else inputs
            # A tile without inputs is no better than outputs that are pruned.
            if shared:
                lost = members * (common.bit_count() - shared.bit_count()) + size - shared.bit_count()
                # A full tile is closed.
                state = (members + 1, shared) if members + 1 < tile else (0, 0)
                moves.append((state, cost + lost, (output, joined)))
            for state, total, path in moves:
                if state not in following or total < following[state][0]:
                    following[state] = total, path
        states = dict(sorted(following.items(), key=lambda item: item[1][0])[:BEAM])
    _, joined = min(states.values(), key=lambda found: found[0])
    survivors = []
    while joined:
        output, joined = joined
        survivors.append(output)
    survivors.reverse()
    part = np.zeros_like(mask)
    for first in range(0, len(survivors), tile):
        together = survivors[first : first + tile]
        part[together] = mask[together].all(axis=0)
    return part
