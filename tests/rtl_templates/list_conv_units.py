"""Units of ListConv for tests, as numbers that JSON carries, and what they yield."""

from __future__ import annotations

from typing import Any

import numpy as np

from rtl_templates.windows import Windows


def windows_of(unit: dict[str, Any]) -> Windows:
    names = ("map", "kernel", "stride", "padding", "dilation")
    return Windows(**{name: tuple(unit[name]) for name in names if name in unit})


def weights_of(unit: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Weights and kernel IDs (lanes, weight rows, channels, sets)."""
    draw = np.random.default_rng(unit.get("seed", 1))
    area = unit["kernel"][0] * unit["kernel"][1]
    size = (area, unit.get("weight_rows", 1), unit["channels"], unit["sets"])
    weights = draw.choice([-127, 127], size) if unit.get("largest") else draw.integers(-127, 128, size)
    kernel_ids = np.zeros(size, int) if unit.get("largest") else draw.integers(0, unit["kernels"], size)
    return weights, kernel_ids


def accumulator_bits(unit: dict[str, Any]) -> int:
    """Width that every result fits, and just so the largest."""
    area = unit["kernel"][0] * unit["kernel"][1]
    largest = area * unit["entries"] * unit.get("weight_rows", 1) * 127 * (128 if unit["signed"] else 255)
    return largest.bit_length() + 1


def results_of(unit: dict[str, Any], lists: np.ndarray) -> list[list[int]]:
    """Beats for lists (words, rows, columns, entries, 2) of (index, value)."""
    windows = windows_of(unit)
    weights, kernel_ids = weights_of(unit)
    (top, left), (rows, columns) = windows.padding, windows.positions
    beats = []
    for word in lists:
        for y in range(rows):
            for x in range(columns):
                sums = np.zeros((unit["kernels"], unit["sets"]), np.int64)
                for lane in range(len(weights)):
                    dy, dx = divmod(lane, windows.kernel[1])
                    py = y * windows.stride[0] + dy * windows.dilation[0] - top
                    px = x * windows.stride[1] + dx * windows.dilation[1] - left
                    if not (0 <= py < windows.map[0] and 0 <= px < windows.map[1]):
                        continue
                    for index, value in word[py, px]:
                        for row in range(weights.shape[1]):
                            products = value * weights[lane, row, index]
                            np.add.at(sums, (kernel_ids[lane, row, index], np.arange(unit["sets"])), products)
                beats += sums.tolist()
    return beats
