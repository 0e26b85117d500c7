"""What flows between two stages of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hwgen.plan.stages import Layout, Pair


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A stream and what is known of its content.

    Attributes:
        channels: of the map.
        map: (height, width).
        bits, signed: of a value.
        layout: of a value stream: `beats` rows of `lanes` channels; empty for lists, which name their channels.
        entries: length of each position's winner list, or None for a value stream.
        whole: a beat of the list stream is a whole list.
        flat: the list stream is one list of the whole map, its indices those of the flattened map.
        most: bound on the non-zero values of a position.
        most_word: bound on the non-zero values of a word.
        burst: the values of a word come in one go, a beat a cycle, from a stage that can do nothing else meanwhile.
    """

    channels: int
    map: Pair
    bits: int
    signed: bool
    layout: Layout
    most: int
    most_word: int
    entries: int | None = None
    whole: bool = False
    flat: bool = False
    burst: bool = False

    @property
    def positions(self) -> int:
        return self.map[0] * self.map[1]

    @property
    def lanes(self) -> int:
        return len(self.layout[0])

    @property
    def beats(self) -> int:
        """Beats of a word."""
        return len(self.layout) * self.positions

    @property
    def window_map(self) -> Pair:
        """Extent of the map that a window slides over."""
        return (1, 1) if self.flat else self.map

    @property
    def index_size(self) -> int:
        """Indices of a list are below this."""
        return self.channels * self.positions if self.flat else self.channels


@lru_cache(maxsize=4096)
def narrowed(layout: Layout, lanes: int) -> Layout:
    """The layout behind a Narrow stage: each beat in parts of `lanes`, the last part filled up with nothing."""
    wide = len(layout[0])
    filled = np.full((len(layout), -(-wide // lanes) * lanes), -1, np.int64)
    filled[:, :wide] = layout
    return tuple(map(tuple, filled.reshape(-1, lanes).tolist()))


@lru_cache(maxsize=4096)
def without_empty(layout: Layout) -> Layout:
    """The layout without the beats that carry nothing."""
    return tuple(row for row in layout if max(row) >= 0)


def torch_layout(channels: int, lanes: int) -> Layout:
    """Channels in torch's order, `lanes` a beat."""
    return narrowed((tuple(range(channels)),), lanes)
