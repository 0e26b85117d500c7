"""Products of an activation and one weight, or two that share a multiplier block."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from amaranth.hdl import Cat, Module, Signal, Value, signed
from numpy.typing import NDArray

from rtl_templates.target import target
from rtl_templates.weight_memory import WEIGHT_BITS

# Of an activation and a weight, with a sign.
PRODUCT_BITS = 17
PRODUCT = signed(PRODUCT_BITS)


def weights_each(platform: object) -> int:
    """How many weights a multiplier takes: 2 where it is wide enough to keep their products apart."""
    return 2 if target(platform).pair_offset >= PRODUCT_BITS else 1


def borrowed(weights: NDArray[np.integer]) -> NDArray[np.int64]:
    """Weights, along the last axis, of which two share a multiplier: a negative first one borrows from the second."""
    result = weights.astype(np.int64)
    second = result[..., 1::2]
    second -= weights[..., ::2][..., : second.shape[-1]] < 0
    return result


def products(m: Module, platform: object, activation: Value, weights: Sequence[Value], name: str) -> list[Value]:
    """One multiplier, for a weight or for two from `borrowed`; 2 cycles from the weights, 1 from the activation."""
    # Without reset, as the registers inside multiplier blocks are here.
    if len(weights) == 1:
        weight = Signal(signed(WEIGHT_BITS), name=f"weight_{name}", reset_less=True)
        product = Signal(PRODUCT, name=f"product_{name}", reset_less=True)
        m.d.sync += [weight.eq(weights[0]), product.eq(activation * weight)]
        return [product]
    first, second = weights
    # The products of an activation and weights[0] + weights[1] * 2^offset lie apart.
    offset = target(platform).pair_offset
    operand = Signal(signed(offset + WEIGHT_BITS), name=f"weights_{name}", reset_less=True)
    both = Signal(signed(offset + PRODUCT_BITS), name=f"products_{name}", reset_less=True)
    m.d.sync += [
        operand.eq(Cat(first, first[-1].replicate(offset - WEIGHT_BITS), second)),
        both.eq(activation * operand),
    ]
    # A negative first product has borrowed from the second.
    return [both[:PRODUCT_BITS].as_signed(), both[offset:].as_signed() + both[offset - 1]]
