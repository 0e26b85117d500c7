# amaranth: UnusedElaboratable=no
from __future__ import annotations

import numpy as np
import pytest
from amaranth import signed, unsigned

from rtl_templates.product_pair import Product, ProductPair, product_shape
from sim.bench import run_bench


def pair(a, w0, w1, shape, offset):
    """The formula of ProductPair in integers."""
    overlap = max(0, product_shape(shape).width - offset)
    total = a * (w0 + (w1 << offset))
    # The low bits of P1 from low bits alone.
    low = (a % (1 << overlap)) * (w1 % (1 << overlap)) % (1 << overlap)
    lower = total % (1 << offset)
    difference = (total >> offset) % (1 << overlap) - low
    carry = difference < 0
    high = difference % (1 << overlap)
    negative = (high >> (overlap - 1) if overlap else lower >> (offset - 1)) & 1
    p0 = lower + ((high - (negative << overlap)) << offset)
    p1 = (((total >> (offset + overlap)) + negative - carry) << overlap) + low
    return p0, p1


@pytest.mark.parametrize("shape", [signed(8), unsigned(8)], ids=str)
@pytest.mark.parametrize("offset", [8, 10, 15, 16, 18])
def test_formula_for_all_operands(shape, offset):
    weights = np.arange(-127, 128)
    a, w0 = np.meshgrid(np.arange(-128, 128) if shape.signed else np.arange(256), weights)
    for w1 in weights:
        p0, p1 = pair(a, w0, w1, shape, offset)
        assert (p0 == a * w0).all() and (p1 == a * w1).all(), w1


@pytest.mark.parametrize("shape", [signed(8), unsigned(8)], ids=str)
@pytest.mark.parametrize("offset", [8, 10, 15, 18, None])
def test_component(shape, offset):
    component = Product(shape) if offset is None else ProductPair(shape, offset)
    run_bench(
        component,
        "tests.rtl_templates.product_pair_bench",
        parameters={"signed": shape.signed, "pair": offset is not None, "latency": component.LATENCY},
    )


def test_refuses():
    with pytest.raises(ValueError, match="offset must be at least 8, not 7"):
        ProductPair(signed(8), 7)
