"""Windows of a few bytes, gathered: what lies in several rows of a map lies in one piece then."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from host.cpu.ir import I8, I64, vector
from host.cpu.layout import Map
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
