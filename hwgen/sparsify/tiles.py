"""How near a mask is to tile-wise sparsity."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BEAM = 512


def fewest_singles(mask: NDArray[np.bool_], tile: int) -> int:
    """The fewest elements whose removal leaves a tile-wise mask, as far as a beam search finds them.

    The outputs are decided in their order: each is pruned, at the cost of all its elements, or joins the open tile,
    which costs what its inputs and those that the tile had in common till then do not share. Only the cheapest
    `BEAM` states are followed.

    Args:
        mask: bool (outputs, inputs).
        tile: outputs of a tile.
    """
    # An open tile: its members and the inputs that they have in common, as an integer of bits. The cost so far.
    costs: dict[tuple[int, int], int] = {(0, 0): 0}
    for row in mask[mask.any(axis=1)]:
        inputs = int.from_bytes(np.packbits(row).tobytes())
        size = inputs.bit_count()
        following: dict[tuple[int, int], int] = {}
        for (members, common), cost in costs.items():
            moves = [((members, common), cost + size)]
            shared = common & inputs if members else inputs
            # A tile without inputs is no better than outputs that are pruned.
            if shared:
                lost = members * (common.bit_count() - shared.bit_count()) + size - shared.bit_count()
                # A full tile is closed.
                joined = (members + 1, shared) if members + 1 < tile else (0, 0)
                moves.append((joined, cost + lost))
            for state, total in moves:
                if total < following.get(state, total + 1):
                    following[state] = total
        costs = dict(sorted(following.items(), key=lambda item: item[1])[:BEAM])
    return min(costs.values())
