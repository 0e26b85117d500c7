from __future__ import annotations

import numpy as np
import pytest
import torch

from hwgen.errors import ModelError
from hwgen.format.network import Conv2d, Linear, MaxPool2d
from hwgen.format.shapes import Tensor, output_of, window_count


def test_windows_are_counted_as_torch_counts_them():
    rng = np.random.default_rng(0)
    for _ in range(300):
        size, kernel, stride, dilation = (int(value) for value in rng.integers(1, (12, 5, 5, 4)))
        padding, ceil_mode = int(rng.integers(0, kernel // 2 + 1)), bool(rng.integers(2))
        pool = torch.nn.MaxPool1d(kernel, stride, padding, dilation, ceil_mode=ceil_mode)
        try:
            expected = pool(torch.zeros(1, 1, size)).shape[-1]
        except RuntimeError:
            expected = 0
        assert window_count(size, kernel, stride, padding, dilation, ceil_mode) == expected


def test_accumulators_hold_every_partial_sum_and_no_more():
    weight = np.array([[127, -127, 3], [0, 0, 0]], np.int8)
    layer = Linear("fc", weight, weight != 0, np.array([-5, 40_000], np.int32))
    # Row 0: 130 * 255 without the bias; -127 * 255 with it. Row 1: its bias alone.
    assert output_of(layer, Tensor((3,), 0, 255)) == Tensor((2,), -127 * 255 - 5, 40_000)
    # Padding counts as 0 even where no value is 0, so the bounds include it.
    assert output_of(layer, Tensor((3,), 100, 200)) == Tensor((2,), -127 * 200 - 5, 40_000)
    assert Tensor((1,), -128, 127).bits == 8
    assert Tensor((1,), 0, 255).bits == 8
    assert Tensor((1,), -129, 0).bits == 9


def test_what_does_not_fit_is_refused_by_name():
    weight = np.ones((2, 3, 3, 3), np.int8)
    layer = Conv2d("block.conv", weight, weight != 0, np.zeros(2, np.int32))
    for shape, reason in (((4, 5, 5), "takes 3 channels"), ((27,), "takes 3 channels"), ((3, 2, 5), "does not fit")):
        with pytest.raises(ModelError, match=f"'block.conv'.*{reason}"):
            output_of(layer, Tensor(shape, 0, 255))


def test_a_max_pool_that_sees_only_padding_is_refused():
    pool = MaxPool2d("pool", (3, 3), (1, 1), (1, 1), (2, 2))
    assert output_of(pool, Tensor((1, 4, 4), 0, 255)).shape == (1, 2, 2)
    # Taps at -1, 1 and 3 of a map with one row.
    wide = MaxPool2d("pool", (2, 1), (1, 1), (1, 0), (2, 1))
    with pytest.raises(ModelError, match="'pool'.*wholly in the padding"):
        output_of(wide, Tensor((1, 1, 4), 0, 255))
