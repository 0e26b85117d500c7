"""Random integer networks for hypothesis, and inputs that hurt: ties, saturation, zeros, extremes."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from hwgen.format.network import (
    Conv2d,
    Flatten,
    Input,
    IntegerNetwork,
    KWinners,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Requantise,
    SumPool2d,
)
from hwgen.format.shapes import Tensor, input_tensor, output_of, window_count


def networks() -> st.SearchStrategy[IntegerNetwork]:
    """Hypothesis supplies a seed and the network follows from it: no two examples are nearly the same."""
    return st.integers(0, 2**64 - 1).map(random_network)


def random_network(seed: int, max_size: int = 7, max_channels: int = 12) -> IntegerNetwork:
    """A network of one to three MAC layers; convolutions with stride, padding, dilation and groups among them."""
    rng = np.random.default_rng(seed)
    draw = _Draw(rng)
    if draw.integer(0, 4):
        shape: tuple[int, ...] = (draw.integer(1, 4), draw.integer(2, max_size), draw.integer(2, max_size))
    else:
        shape = (draw.integer(1, 30),)
    source = Input(shape, 1.0, draw.boolean())
    chain = _Chain(draw, rng, input_tensor(source))
    blocks = draw.integer(1, 3)
    for index in range(blocks):
        last = index == blocks - 1
        if len(chain.tensor.shape) == 3 and draw.integer(0, 3):
            chain.convolution(index, max_channels)
        else:
            if len(chain.tensor.shape) == 3:
                chain.add(Flatten(f"flatten{index}"))
            chain.linear(index, 2 * max_channels)
        chain.follow(index, last)
    outputs = chain.tensor.shape[0]
    return IntegerNetwork(source, tuple(chain.layers), np.ones(outputs))


class _Draw:
    def __init__(self, rng: np.random.Generator):
        self.rng = rng

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high, endpoint=True))

    def choice(self, values: list):
        return values[self.integer(0, len(values) - 1)]

    def boolean(self) -> bool:
        return bool(self.integer(0, 1))


class _Chain:
    def __init__(self, draw: _Draw, rng: np.random.Generator, tensor: Tensor):
        self.draw, self.rng, self.tensor = draw, rng, tensor
        self.layers: list[Layer] = []
        self.typical = 0.0

    def add(self, layer: Layer) -> None:
        self.tensor = output_of(layer, self.tensor)
        self.layers.append(layer)

    def linear(self, index: int, most: int) -> None:
        inputs, outputs = self.tensor.shape[0], self.draw.integer(1, most)
        weight, mask = self.weights((outputs, inputs))
        self.add(Linear(f"linear{index}", weight, mask, self.bias(outputs, inputs)))

    def convolution(self, index: int, most: int) -> None:
        draw = self.draw
        channels, height, width = self.tensor.shape
        groups = draw.choice([g for g in range(1, channels + 1) if channels % g == 0])
        outputs = groups * draw.integer(1, max(1, most // groups))
        axes = [self.axis(extent, draw.choice([1, 1, 2])) for extent in (height, width)]
        kernel, stride, padding, dilation = ((axes[0][i], axes[1][i]) for i in range(4))
        weight, mask = self.weights((outputs, channels // groups, *kernel))
        bias = self.bias(outputs, weight[0].size)
        self.add(Conv2d(f"conv{index}", weight, mask, bias, stride, padding, dilation, groups))

    def axis(self, extent: int, dilation: int) -> tuple[int, int, int, int]:
        draw = self.draw
        kernel = draw.integer(1, min(3, extent))
        padding = draw.integer(0, kernel // 2)
        while window_count(extent, kernel, 1, padding, dilation) < 1:
            dilation = 1
        return kernel, draw.choice([1, 1, 2, 3]), padding, dilation

    def weights(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        draw, rng = self.draw, self.rng
        outputs, columns = shape[0], int(np.prod(shape[1:]))
        kind = draw.choice(["unstructured", "complementary", "complementary", "n:m", "block", "full", "empty"])
        mask = np.zeros((outputs, columns), bool)
        match kind:
            case "unstructured":
                mask = rng.random((outputs, columns)) < rng.choice([0.05, 0.2, 0.5])
            case "complementary":
                nonzeros = draw.integer(1, max(1, columns // 2))
                for start in range(0, outputs, columns // nonzeros):
                    order = rng.permutation(columns)
                    for place, output in enumerate(range(start, min(outputs, start + columns // nonzeros))):
                        mask[output, order[place * nonzeros : (place + 1) * nonzeros]] = True
                mask = mask[rng.permutation(outputs)]
            case "n:m":
                for start in range(0, columns, 4):
                    part = mask[:, start : start + 4]
                    part[:, : max(1, part.shape[1] // 2)] = True
                    part[:] = rng.permuted(part, axis=1)
            case "block":
                mask = np.repeat(rng.random((outputs, -(-columns // 3))) < 0.4, 3, axis=1)[:, :columns]
            case "full":
                mask[:] = True
        # Mostly the whole range, sometimes so few values that results tie, sometimes only the extremes.
        values = draw.choice([None, [-1, 1], [-127, 127], [0, 1]])
        weight = rng.integers(-127, 128, mask.shape) if values is None else rng.choice(values, mask.shape)
        weight = np.where(mask, weight, 0).astype(np.int8)
        self.typical = 60.0 * max(1.0, float(np.abs(weight).sum(axis=1).max())) / np.sqrt(columns)
        return weight.reshape(shape), mask.reshape(shape)

    def bias(self, outputs: int, fan_in: int) -> np.ndarray:
        span = int(self.draw.choice([0, 10, 1000, 20000]))
        return self.rng.integers(-span, span + 1, outputs).astype(np.int32)

    def requantise(self, index: str) -> None:
        draw, channels = self.draw, self.tensor.shape[0]
        high = draw.choice([1, 2, 300, 1 << 16])
        multiplier = self.rng.integers(1, high, channels, endpoint=False) if high > 1 else np.ones(channels)
        # From "all values tie" to "most values saturate".
        scale = float(np.mean(multiplier)) * self.typical / 64
        shift = int(np.clip(np.round(np.log2(max(scale, 1.0))) + draw.integer(-2, 2), 0, 47))
        self.add(Requantise(f"requantise{index}", multiplier.astype(np.int32), shift, draw.boolean()))

    def follow(self, index: int, last: bool) -> None:
        draw = self.draw
        if len(self.tensor.shape) == 3 and draw.integer(0, 2) == 0:
            self.pool(f"pool{index}", True)
        if last and draw.boolean():
            return
        self.requantise(str(index))
        if draw.integer(0, 3):
            self.winners(f"winners{index}")
            if draw.integer(0, 4) == 0:
                self.add(ReLU(f"relu{index}"))
        if len(self.tensor.shape) == 3 and draw.integer(0, 3) == 0:
            if draw.boolean():
                self.pool(f"latepool{index}", True)
            else:
                self.pool(f"sumpool{index}", False)
                self.typical = 60.0 * 4
                self.requantise(f"sum{index}")

    def winners(self, name: str) -> None:
        local = self.draw.boolean()
        count = self.tensor.shape[0] if local else int(np.prod(self.tensor.shape))
        k = self.draw.choice([self.draw.integer(1, max(1, count // 4)), 1, count, max(1, count - 1)])
        self.add(KWinners(name, k, local))

    def pool(self, name: str, largest: bool) -> None:
        draw = self.draw
        _, height, width = self.tensor.shape
        kernel = (draw.integer(1, min(3, height)), draw.integer(1, min(3, width)))
        stride = (draw.integer(1, 3), draw.integer(1, 3))
        padding = (draw.integer(0, kernel[0] // 2), draw.integer(0, kernel[1] // 2))
        ceil_mode = draw.boolean()
        if largest:
            self.add(MaxPool2d(name, kernel, stride, padding, ceil_mode=ceil_mode))
        else:
            self.add(SumPool2d(name, kernel, stride, padding))


def inputs(network: IntegerNetwork, count: int, seed: int) -> np.ndarray:
    """int64 (count, *shape): random words, and at the front words of equal, extreme and mostly absent values."""
    rng = np.random.default_rng(seed)
    low, high = (-128, 127) if network.input.signed else (0, 255)
    x = rng.integers(low, high, (count, *network.input.shape), endpoint=True)
    special = [np.full_like(x[0], high), np.full_like(x[0], low), np.zeros_like(x[0]), np.where(x[0] > 100, x[0], 0)]
    x[: len(special)] = special[:count]
    return x
