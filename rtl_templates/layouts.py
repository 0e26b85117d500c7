"""Checks and conversions of value-stream layouts that several components share."""

from __future__ import annotations

from rtl_templates.streams import Layout


def checked(layout: Layout) -> tuple[tuple[int, ...], ...]:
    """The layout as tuples; ValueError unless it is a rectangle in which every channel 0, 1, ... occurs once."""
    rows = tuple(tuple(int(channel) for channel in row) for row in layout)
    if not rows or not rows[0] or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError(f"layout must be one or more beats of equally many lanes, not {layout!r}")
    channels = sorted(channel for row in rows for channel in row if channel != -1)
    if not channels or channels != list(range(len(channels))):
        raise ValueError(f"layout must hold every channel from 0 on exactly once and -1 elsewhere, not {layout!r}")
    return rows


def channel_places(layout: Layout) -> list[tuple[int, int]]:
    """The (beat, lane) that carries each channel."""
    places = {c: (beat, lane) for beat, row in enumerate(layout) for lane, c in enumerate(row) if c != -1}
    return [places[channel] for channel in range(len(places))]


def channel_count(layout: Layout) -> int:
    """Number of channels of a layout."""
    return sum(channel != -1 for row in layout for channel in row)
