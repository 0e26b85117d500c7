"""Layers of one position, computed for several words of a batch at once: their weights are fetched once for all of these.

A large linear layer is bound by the fetching of its weights. What it reads of each word is gathered side by side, as if the
words were the positions of a map with one row, and its results are handed back word by word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from host.cpu.ir import I8, Code, Value, vector
from host.cpu.isa import Isa
from host.cpu.layout import LANES, Map
from host.cpu.listed import Listed
from host.cpu.product import Product, byte_places
from host.cpu.steps import Step, Window

# Words at once.
WORDS = 8
# Non-zero weights of a layer that does not stay in the first cache from word to word.
LEAST_WEIGHTS = 1 << 14
# Bytes that are copied at once; places of words are as many apart, or a multiple.
_PIECE = 64


@dataclass(frozen=True, eq=False)
class Shared:
    """A layer that `WORDS` words share.

    Attributes:
        one: the product of a word.
        all: that of the words, side by side.
        step: computes it.
    """

    one: Product
    all: Product
    step: Step

    def gather(self, code: Code, work: Value, number: Value) -> None:
        """Copies what a word's product reads to the word's place; `number`: of the word, from 0."""
        source, target = self.one.source, self.all.source
        place = code.at(work, code.offset((number, target.pixel)))
        with code.loop(target.pixel, step=_PIECE) as byte:
            value = code.load(code.at(work, byte), vector(I8, _PIECE), source.origin + _lowest(self.one))
            code.store(value, code.at(place, byte), target.origin)

    def scatter(self, code: Code, work: Value, number: Value) -> None:
        """Copies the results of a word to where the next step expects them."""
        source, target = self.all.target, self.one.target
        place = code.at(work, code.offset((number, source.pixel)))
        piece = LANES * target.unit
        with code.loop(self.one.blocks * piece, step=piece) as byte:
            value = code.load(code.at(place, byte), vector(I8, piece), source.origin)
            code.store(value, code.at(work, byte), target.origin)


def shareable(product: Product, step: Step, isa: Isa) -> bool:
    """Whether words gain by sharing a layer, which `step` computes for one."""
    # Rows that a word fetches by its own activations are none that others need, and widened bytes lie elsewhere.
    if product.window.size != (1, 1) or product.pool is not None or isinstance(step, Listed) or isa.wide:
        return False
    # Emulation, which is there for tests, shares layers of any size.
    return isa.emulated or int(np.count_nonzero(product.weight)) >= LEAST_WEIGHTS


def of_words(product: Product, place: Callable[[Map], Map]) -> Product:
    """The product of `WORDS` words side by side; `place` gives a map its place in the workspace."""
    lowest, columns = _lowest(product), byte_places(product)
    weight = np.zeros((product.outputs, 1, int(columns.max()) + 1 - lowest), np.int8)
    weight[:, 0, columns - lowest] = product.weight.reshape(product.outputs, -1)
    source = _row_of_words(product.source, weight.shape[2])
    target = _row_of_words(product.target, product.outputs)
    window = Window((1, WORDS), (1, 1), ((0, 0),))
    return replace(product, source=place(source), target=place(target), window=window, weight=weight)


def _row_of_words(of: Map, channels: int) -> Map:
    """A map whose pixels are words."""
    stride = -(-channels * of.unit // _PIECE) * _PIECE // of.unit
    return Map(channels, 1, WORDS, stride, (0, 0, 0, 0), of.unit, of.offset, 0)


def _lowest(product: Product) -> int:
    """The first byte that a word's product reads, relative to its map's first pixel."""
    return int(byte_places(product).min())
