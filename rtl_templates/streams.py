"""The two kinds of stream that join layer engines, and what their beats carry.

A *value stream* carries a map position by position (row by row) and, within a position, beat by beat; a beat has
`lanes` values. Which channel a (beat, lane) carries is static: the stream's *layout*, `beats` rows of `lanes` channel
numbers in torch's order, -1 where a lane carries nothing. A vector is a map of one position. A *list stream* carries,
for each position, a fixed number of (index, value) entries; entries beyond the last real one are (0, 0).

There is no end-of-word marker: every count is static, and reset brings every counter back to the start of a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from amaranth import Shape
from amaranth.lib import data, stream
from amaranth.utils import bits_for

Layout: TypeAlias = Sequence[Sequence[int]]


def value_beat(shape: Shape, lanes: int) -> data.ArrayLayout:
    """The payload of a value stream."""
    return data.ArrayLayout(shape, lanes)


def entry(shape: Shape, size: int) -> data.StructLayout:
    """The payload of a list stream."""
    return data.StructLayout({"index": max(1, bits_for(size - 1)), "value": shape})


def values(shape: Shape, lanes: int) -> stream.Signature:
    """A value stream: the payload is an array of `lanes` values of `shape`."""
    return stream.Signature(value_beat(shape, lanes))


def entries(shape: Shape, size: int) -> stream.Signature:
    """A list stream: the payload has `index` (0 <= index < size) and `value` (of `shape`)."""
    return stream.Signature(entry(shape, size))
