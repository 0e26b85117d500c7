from __future__ import annotations

import numpy as np
import pytest

from hwgen.errors import DataError
from hwgen.format.io import dequantise_output, quantise_input
from hwgen.format.network import Input, IntegerNetwork


def outputs(scales: list[float], head: str | None = None) -> IntegerNetwork:
    return IntegerNetwork(Input((2,), 1.0, True), (), np.array(scales), head)


def test_rounds_half_up_and_saturates() -> None:
    x = np.array([[-0.75, -0.25, 0.25, 0.2499, 1e30, -np.inf, np.inf, -64.0]], np.float32)
    signed = quantise_input(Input((8,), 0.5, True), x)
    assert signed.dtype == np.int64
    assert signed.tolist() == [[-1, 0, 1, 0, 127, -128, 127, -128]]
    unsigned = quantise_input(Input((8,), 0.5, False), x)
    assert unsigned.tolist() == [[0, 0, 1, 0, 255, 0, 255, 0]]


def test_float64_is_taken_and_no_samples_are_fine() -> None:
    assert quantise_input(Input((1, 2, 1), 1.0, False), np.full((1, 1, 2, 1), 3.5)).ravel().tolist() == [4, 4]
    assert quantise_input(Input((2,), 1.0, False), np.zeros((0, 2), np.float32)).shape == (0, 2)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.full((1, 2), np.nan, np.float32), "NaN"),
        (np.zeros((1, 3), np.float32), r"\(N, 2\)"),
        (np.zeros(2, np.float32), "batch first"),
        (np.zeros((1, 2), np.int64), "not int64"),
        (np.zeros((1, 2), np.float16), "not float16"),
        ([[0.0, 0.0]], "not list"),
    ],
)
def test_refuses_inputs(x: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        quantise_input(Input((2,), 1.0, True), x)


def test_scales_the_first_dimension() -> None:
    y = np.array([[[[1, 2]], [[3, 4]]]])
    real = dequantise_output(outputs([0.5, 10.0]), y)
    assert real.dtype == np.float32
    assert real.tolist() == [[[[0.5, 1.0]], [[30.0, 40.0]]]]


def test_heads() -> None:
    y = np.array([[0, 1], [5000, 0]])
    soft = dequantise_output(outputs([1.0, np.log(3)], "softmax"), y)
    np.testing.assert_allclose(soft, [[0.25, 0.75], [1.0, 0.0]])
    log = dequantise_output(outputs([1.0, np.log(3)], "log_softmax"), y)
    np.testing.assert_allclose(log, [[np.log(0.25), np.log(0.75)], [0.0, -5000.0]], rtol=1e-6)


@pytest.mark.parametrize("y", [np.zeros((1, 3), np.int64), np.zeros(2, np.int64), np.zeros((1, 2))])
def test_refuses_outputs(y: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"integers \(N, 2, ...\)"):
        dequantise_output(outputs([1.0, 1.0]), y)
