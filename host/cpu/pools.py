"""Pools that no convolution has taken in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from host.cpu.ir import I8, I32, I64, vector
from host.cpu.layout import LANES, Map, padded
from host.cpu.requantise import loaded
from host.cpu.steps import Context, Window


@dataclass(frozen=True)
class Pool:
    """The largest of each window, or the sum, in words.

    Attributes:
        name: of the layer.
        source, target: the source's border holds what never wins, or zeros.
        window: of each position.
        sums: sums if true, else the largest.
    """

    name: str
    source: Map
    target: Map
    window: Window
    sums: bool

    def emit(self, context: Context) -> None:
        code, builder, source, target = context.code, context.code.builder, self.source, self.target
        taps = np.array([y * source.row + x * source.pixel for y, x in self.window.taps], np.int64)
        at_taps = context.tables.add(taps)
        down, across = self.window.stride
        kind = vector(I32 if self.sums or source.words else I8, LANES)
        with code.loop(target.height) as y, code.loop(target.width) as x:
            base = code.at(context.work, code.offset((y, down * source.row), (x, across * source.pixel)))
            place = code.at(context.work, code.offset((y, target.row), (x, target.pixel)))
            with code.loop(padded(source.channels), step=LANES) as channel:
                pixel = code.at(base, code.offset((channel, source.unit)))
                # No stored value is lower than the first of the window, which is never outside both the map and border.
                first = code.at(pixel, int(taps[0]))
                result = code.variable(kind, loaded(context, source, first, bytes_too=self.sums))
                if len(taps) > 1:
                    with code.loop(len(taps), start=1) as tap:
                        distance = code.load(
                            context.block, I64, builder.add(I64(at_taps), code.offset((tap, taps.itemsize)))
                        )
                        value = loaded(context, source, code.at(pixel, distance), bytes_too=self.sums)
                        if self.sums:
                            result.set(builder.add(result.get(), value))
                        else:
                            result.set(code.greater(result.get(), value, signed=source.words))
                code.store(result.get(), code.at(place, code.offset((channel, target.unit))), target.origin)
