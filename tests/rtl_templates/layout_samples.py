"""Layouts and beats for tests."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sim.streams import pack


def shuffled(channels: int, lanes: int, seed: int = 5) -> list[list[int]]:
    """A layout in no particular order, with lanes that carry nothing where they do not come out even."""
    order = list(range(channels)) + [-1] * (-channels % lanes)
    random.Random(seed).shuffle(order)
    return [order[i : i + lanes] for i in range(0, len(order), lanes)]


def to_beats(
    rows: Sequence[Sequence[int]], layout: Sequence[Sequence[int]], bits: int, nothing: int = 0x5A
) -> list[int]:
    """Beats of positions; each row holds a position's values in torch's order."""
    return [pack((nothing if c == -1 else row[c] for c in beat), bits) for row in rows for beat in layout]
