"""Windows of a few bytes, gathered: what lies in several rows of a map lies in one piece then.

Where windows are pooled, all that a window of the pool sees may lie in one piece: neighbours share most of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from host.cpu.ir import I8, I64, vector
from host.cpu.layout import Map
from host.cpu.permuted import TABLE
from host.cpu.product import Product, byte_places
from host.cpu.steps import Context, Window

# Bytes of a piece that are copied at once.
_WORD = 16


@dataclass(frozen=True, eq=False)
class Patches:
    """Copies each position's window.

    Attributes:
        name: of the layer.
        product: whose window it is.
        target: a map of the positions, whose channels are the window's bytes.
    """

    name: str
    product: Product
    target: Map

    def emit(self, context: Context) -> None:
        code, source, target = context.code, self.product.source, self.target
        down, across = self.product.window.stride
        kind = vector(I8, _WORD) if target.pixel >= _WORD else I64
        step = _WORD if target.pixel >= _WORD else 8
        with code.loop(target.height) as y, code.loop(target.width) as x:
            pixel = code.at(context.work, code.offset((y, down * source.row), (x, across * source.pixel)))
            place = code.at(context.work, code.offset((y, target.row), (x, target.pixel)))
            # What is written beyond a piece is overwritten by the next; beyond the last one weights are zero.
            for start, to, count in pieces(self.product):
                for part in range(0, count, step):
                    value = code.load(pixel, kind, source.origin + start + part)
                    code.store(value, place, target.origin + to + part)


def pieces(product: Product) -> list[tuple[int, int, int]]:
    """(first byte relative to the position's first pixel, place in the patch, bytes) of what lies together."""
    places, unit = byte_places(product), product.source.unit
    found: list[tuple[int, int, int]] = []
    for number, place in enumerate(places.tolist()):
        if found and place == found[-1][0] + found[-1][2]:
            start, to, count = found[-1]
            found[-1] = (start, to, count + unit)
        else:
            found.append((place, number * unit, unit))
    return found


def patch_map(product: Product) -> Map:
    """The map of the patches of all positions."""
    values = product.weight.shape[1] * product.weight.shape[2]
    height, width = product.window.size
    source = product.source
    return Map(values, height, width, -(-values // 4) * 4, (0, 0, 0, 0), source.unit, source.offset, source.fill)


def of_patches(product: Product, patches: Map) -> Product:
    """The same product, of patches."""
    outputs = product.outputs
    weight = np.ascontiguousarray(product.weight.reshape(outputs, 1, -1))
    return replace(product, source=patches, window=Window(product.window.size, (1, 1), ((0, 0),)), weight=weight)


def of_windows(product: Product, place: Callable[[Map], Map]) -> Product | None:
    """The same product, of all that a window of the pool sees: a table of the permuted weights for all its positions.

    Args:
        product: of the map itself.
        place: gives a map its place in the workspace.

    Returns:
        None where there is no pool, or what a window of it sees does not fit a table.
    """
    if product.pool is None or product.source.unit != 1:
        return None
    (rows, columns), (down, across), taps = product.pool, product.window.stride, np.array(product.window.taps)
    first = taps.min(axis=0)
    height, width = taps.max(axis=0) - first + 1 + [(rows - 1) * down, (columns - 1) * across]
    channels = product.weight.shape[2]
    if height * width * channels > TABLE:
        return None
    seen = tuple((y + int(first[0]), x + int(first[1])) for y, x in np.ndindex(height, width))
    weight = np.zeros((product.outputs, height * width, channels), np.int8)
    weight[:, (taps - first) @ [width, 1]] = product.weight
    size = (product.target.height, product.target.width)
    whole = replace(product, window=Window(size, (down * rows, across * columns), seen), weight=weight)
    source = product.source
    map = place(Map(height * width * channels, *size, TABLE, (0, 0, 0, 0), 1, source.offset, source.fill))
    return replace(
        of_patches(whole, map),
        gather=Patches(product.name, whole, map),
        apart=(down * int(width) * channels, across * channels),
    )
