"""From layers to steps: what is computed together, where it lies and how each product is formed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from host.cpu.batches import Shared, of_words, shareable
from host.cpu.choice import best
from host.cpu.dense import Dense
from host.cpu.dots import QUAD
from host.cpu.ends import Input, Output
from host.cpu.fetched import Fetched, fetchable
from host.cpu.isa import Isa
from host.cpu.layout import LANES, Map, stride_of
from host.cpu.listed import Listed, listed_row_bytes
from host.cpu.measured import Measured
from host.cpu.patches import Patches, of_patches, of_windows, patch_map, pieces
from host.cpu.permuted import TABLE, copyable
from host.cpu.pools import Pool
from host.cpu.product import Product
from host.cpu.requantise import Elementwise, Widen
from host.cpu.steps import Lists, Scale, Step, Window
from host.cpu.winners import GlobalWinners, LocalWinners
from hwgen.errors import InputError
from hwgen.format.network import (
    Conv2d,
    Flatten,
    IntegerNetwork,
    KWinners,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Requantise,
    SumPool2d,
)
from hwgen.format.shapes import Tensor, tensors

_LINE = 64
_LOWEST_WORD = -(1 << 31)
_NO_BORDER = (0, 0, 0, 0)


@dataclass(frozen=True)
class Plan:
    """A program before any code is made.

    Attributes:
        input, output: its ends.
        steps: in order.
        filled: (byte in the workspace, contents): what is there before the first word, beside zeros.
        size: bytes of the workspace.
        shared: of steps that several words of a batch may share, how.
    """

    input: Input
    output: Output
    steps: tuple[Step, ...]
    filled: tuple[tuple[int, NDArray[np.uint8]], ...]
    size: int
    shared: Mapping[Step, Shared]

    def workspace(self) -> NDArray[np.uint8]:
        """Its contents before the first word."""
        contents = np.zeros(self.size, np.uint8)
        for start, part in self.filled:
            contents[start : start + len(part)] = part
        return contents


@dataclass(frozen=True)
class Group:
    """Layers that one step computes, and the tensors before and after them.

    Attributes:
        layers: a convolution or linear layer with the pool and the requantisation that follow it, or one layer.
        before, after: tensors.
    """

    layers: tuple[Layer, ...]
    before: Tensor
    after: Tensor

    @property
    def first(self) -> Layer:
        return self.layers[0]

    def find(self, kind: type) -> Any:
        return next((layer for layer in self.layers[1:] if isinstance(layer, kind)), None)


def groups(network: IntegerNetwork, most_positions: int) -> list[Group]:
    """The layers without those that move nothing, grouped.

    Args:
        network: whose layers they are.
        most_positions: of a pool that is computed with its convolution.

    Raises:
        InputError: sums of more than 32 bits, or a layer that takes bytes is given sums.
    """
    flow = tensors(network)
    found: list[Group] = []
    for number, layer in enumerate(network.layers):
        before, after = flow[number], flow[number + 1]
        if after.low < -(1 << 31) or after.high >= 1 << 31:
            raise InputError(
                f"layer {layer.name!r}: sums from {after.low} to {after.high}, but device 'cpu' computes in 32 bits: "
                "use device 'reference'"
            )
        if isinstance(layer, Flatten) or (isinstance(layer, KWinners) and _keeps_all(layer, before)):
            continue
        if found and _joins(layer, found[-1], most_positions):
            found[-1] = Group((*found[-1].layers, layer), found[-1].before, after)
        else:
            found.append(Group((layer,), before, after))
    return found


def _keeps_all(layer: KWinners, tensor: Tensor) -> bool:
    local = layer.local and len(tensor.shape) == 3
    return layer.k >= (tensor.shape[0] if local else int(np.prod(tensor.shape)))


def _joins(layer: Layer, group: Group, most_positions: int) -> bool:
    if not isinstance(group.first, Conv2d | Linear) or group.find(Requantise):
        return False
    if isinstance(layer, Requantise):
        return len(layer.multiplier) == group.after.shape[0]
    if not isinstance(layer, MaxPool2d) or group.find(MaxPool2d) or len(group.after.shape) != 3:
        return False
    apart = layer.kernel == layer.stride and layer.padding == (0, 0) and layer.dilation == (1, 1)
    whole = not layer.ceil_mode or all(n % k == 0 for n, k in zip(group.after.shape[1:], layer.kernel, strict=True))
    return apart and whole and layer.kernel[0] * layer.kernel[1] <= most_positions


class Planner:
    """Makes the steps of a network, one after the other, and gives each tensor its place.

    Arguments:
        network: what is computed.
        isa: the path.
        form: how a product is to be formed, given the lists of its activations, if there are.
    """

    def __init__(self, network: IntegerNetwork, isa: Isa, form: Callable[[Product, Lists | None, Isa], Step] = best):
        self._network, self._isa, self._form = network, isa, form
        self._groups = groups(network, isa.accumulators)
        self._size = 0
        self._filled: list[tuple[int, NDArray[np.uint8]]] = []
        self._shared: dict[Step, Shared] = {}

    def plan(self) -> Plan:
        flow = self._network.input
        channels, *rest = (*flow.shape, 1, 1)[:3]
        shape = (channels, rest[0], rest[1])
        # Vectors pass over the pixels of all steps but products, which take pixels as close as they come.
        first = self._follower(-1)
        close = channels < LANES and first is not None and isinstance(first.first, Conv2d | Linear)
        stride = channels if close else stride_of(channels)
        offset = 128 if flow.signed else 0
        source = self._place(self._map(shape, stride, False, offset, self._follower(-1)))
        input, steps, lists = Input(source, flow.scale), [], None
        for number, group in enumerate(self._groups):
            made = self._step(number, group, source, lists)
            steps += made[0]
            source, lists = made[1:]
        used = [step.lists for step in steps if isinstance(step, Listed)]
        steps = [_without_unused_lists(step, used) for step in steps]
        flat = len(self._network.output_scale) != source.channels
        return Plan(
            input, Output(source, flat), tuple(steps), tuple(self._filled), self._size + 4 * _LINE, self._shared
        )

    # Places

    def _follower(self, number: int) -> Group | None:
        return self._groups[number + 1] if number + 1 < len(self._groups) else None

    def _map(self, shape: tuple[int, int, int], stride: int, words: bool, offset: int, reader: Group | None) -> Map:
        """A map with the border that its reader wants."""
        border, fill = _NO_BORDER, 0 if words else offset
        if reader is not None and isinstance(reader.first, Conv2d | MaxPool2d | SumPool2d):
            border = _border(reader.first, shape[1:], _first_size(reader.first, shape))
            if isinstance(reader.first, MaxPool2d):
                fill = _LOWEST_WORD if words else 0
        return Map(*shape, stride, border, 4 if words else 1, offset, fill)

    def _place(self, map: Map) -> Map:
        placed = replace(map, start=self._reserve(map.size))
        if placed.fill:
            self._filled.append((placed.start, placed.filled()))
        return placed

    def _reserve(self, size: int) -> int:
        start = self._size
        self._size += -(-size // _LINE) * _LINE
        return start

    # Steps

    def _step(
        self, number: int, group: Group, source: Map, lists: Lists | None
    ) -> tuple[list[Step], Map, Lists | None]:
        """The group's steps, the map that they make, and its lists."""
        reader, layer = self._follower(number), group.first
        offset = source.offset
        match layer:
            case Conv2d() | Linear():
                return self._product(group, source, lists, reader)
            case KWinners():
                return self._winners(layer, source, reader, layer.local and len(group.before.shape) == 3)
            case Requantise():
                scale = _scale(layer, group.before)
                shape = (source.channels, source.height, source.width)
                target = self._place(self._map(shape, stride_of(source.channels), False, scale.offset, reader))
                return [Elementwise(layer.name, source, target, scale)], target, None
            case ReLU():
                shape = (source.channels, source.height, source.width)
                target = self._place(self._map(shape, stride_of(source.channels), source.words, offset, reader))
                return [Elementwise(layer.name, source, target, None)], target, None
            case MaxPool2d() | SumPool2d():
                dilation = layer.dilation if isinstance(layer, MaxPool2d) else (1, 1)
                words = source.words or isinstance(layer, SumPool2d)
                window = _window(layer, layer.kernel, dilation, _first_size(layer, (0, source.height, source.width)))
                shape = (source.channels, *window.size)
                target = self._place(self._map(shape, stride_of(source.channels), words, offset, reader))
                return [Pool(layer.name, source, target, window, isinstance(layer, SumPool2d))], target, None
        raise AssertionError(f"no step for {type(layer).__name__}")

    def _product(
        self, group: Group, source: Map, lists: Lists | None, reader: Group | None
    ) -> tuple[list[Step], Map, Lists | None]:
        layer = group.first
        assert isinstance(layer, Conv2d | Linear)
        if source.words:
            raise InputError(
                f"layer {layer.name!r}: takes sums that were not requantised, which device 'cpu' does not: "
                "use device 'reference'"
            )
        outputs, scale, pool = len(layer.weight), group.find(Requantise), group.find(MaxPool2d)
        window, weight = _seen(layer, source)
        size = window.size if pool is None else tuple(n // k for n, k in zip(window.size, pool.kernel, strict=True))
        before = Tensor((), 0, 0) if scale is None else tensors_before(self._network, scale)
        made = None if scale is None else _scale(scale, before)
        target = self._map((outputs, *size), stride_of(outputs), scale is None, made.offset if made else 0, reader)
        target = self._place(target)
        product = Product(
            layer.name, source, target, window, weight, layer.bias.astype(np.int64),
            None if pool is None else pool.kernel, made,
        )  # fmt: skip
        if lists is not None:
            product = _flat(product) if _is_flat(lists, source) else product
        steps, ready = self._gathered(product) if lists is None else ([], product)
        ready = self._with_copy(ready)
        if lists is not None and fetchable(ready, lists, self._isa):
            ready = replace(ready, scratch=self._reserve(Fetched(ready, lists.slots).size))
        step = self._formed(ready, lists)
        if shareable(ready, step, self._isa):
            words = self._with_copy(of_words(ready, self._place))
            self._shared[step] = Shared(ready, words, self._formed(words, None))
        if isinstance(step, Dense) and self._isa.wide:
            widened = self._place(replace(source, unit=2, offset=0, fill=0))
            steps, ready = self._gathered(replace(product, source=widened))
            steps, step = [Widen(layer.name, source, widened), *steps], Dense(ready)
        return [*steps, step], target, None

    def _with_copy(self, product: Product) -> Product:
        if not self._isa.permutes or not copyable(product):
            return product
        return replace(product, copy=self._reserve(product.source.size + 2 * _LINE))

    def _formed(self, product: Product, lists: Lists | None) -> Step:
        step = self._form(product, lists, self._isa)
        return replace(step, state=self._reserve(step.size)) if isinstance(step, Measured) else step

    def _gathered(self, product: Product) -> tuple[list[Step], Product]:
        """The product, of patches where these are worth it, and what makes them, if that is not for the ways to do."""
        if not _scattered(product):
            return [], product
        patches = self._gather(patch_map(product))
        step, ready = Patches(product.name, product, patches), of_patches(product, patches)
        windows = of_windows(product, self._gather) if self._isa.permutes else None
        return ([step], ready) if windows is None else ([], replace(ready, gather=step, windows=windows))

    def _gather(self, map: Map) -> Map:
        placed = self._place(map)
        # The last patch is written in whole pieces too.
        self._reserve(_LINE)
        return placed

    def _winners(
        self, layer: KWinners, source: Map, reader: Group | None, of_pixels: bool
    ) -> tuple[list[Step], Map, Lists | None]:
        if source.words:
            raise InputError(
                f"layer {layer.name!r}: ranks sums that were not requantised, which device 'cpu' does not: "
                "use device 'reference'"
            )
        shape = (source.channels, source.height, source.width)
        target = self._place(self._map(shape, source.stride, False, source.offset, reader))
        one_pixel = source.height * source.width == 1
        local = (of_pixels or one_pixel) and not (one_pixel and source.channels > 256)
        lists = self._lists(layer, target, reader, flat=not local)
        kind: Callable[..., Step] = LocalWinners if local else GlobalWinners
        if not local and target.border != _NO_BORDER:
            # Its chunks pass over pixels: the border comes with a copy.
            plain = self._place(self._map(shape, source.stride, False, source.offset, None))
            copy = Pool(layer.name, plain, target, Window(shape[1:], (1, 1), ((0, 0),)), False)
            return [GlobalWinners(layer.name, source, plain, layer.k, None), copy], target, None
        return [kind(layer.name, source, target, layer.k, lists)], target, lists

    def _lists(self, layer: KWinners, target: Map, reader: Group | None, *, flat: bool) -> Lists | None:
        if reader is None or not isinstance(reader.first, Conv2d | Linear):
            return None
        if flat and isinstance(reader.first, Conv2d):
            return None
        of = replace(target, channels=target.height * target.row, height=1, width=1) if flat else target
        slots = layer.k + layer.k % 2
        lists = Lists(of, slots, listed_row_bytes(len(reader.first.weight), self._isa.register))
        return replace(lists, start=self._reserve(lists.size))


def _without_unused_lists(step: Step, used: list[Lists]) -> Step:
    """Lists are planned before it is known how their reader forms its products."""
    if isinstance(step, LocalWinners | GlobalWinners) and step.lists not in used:
        return replace(step, lists=None)
    return step


def _scattered(product: Product) -> bool:
    """Whether the window is small, and takes fewer vectors in one piece."""
    size = product.weight.shape[1] * product.weight.shape[2]
    together = QUAD // product.source.unit
    return size <= TABLE and len(pieces(product)) > 1 and -(-size // together) < len(Dense(product).groups()[0])


def tensors_before(network: IntegerNetwork, layer: Layer) -> Tensor:
    return tensors(network)[network.layers.index(layer)]


def _is_flat(lists: Lists, source: Map) -> bool:
    return lists.map.channels != source.channels or lists.map.height != source.height


def _flat(product: Product) -> Product:
    """Of a linear layer: one tap of all bytes, spare ones too."""
    source = product.source
    weight = np.zeros((product.outputs, 1, source.height * source.row), np.int8)
    for tap, (y, x) in enumerate(product.window.taps):
        start = y * source.row + x * source.pixel
        weight[:, 0, start : start + source.channels] = product.weight[:, tap]
    return replace(product, weight=weight, window=Window((1, 1), (1, 1), ((0, 0),)))


def _scale(layer: Requantise, before: Tensor) -> Scale:
    narrow = before.bits + 17 - layer.shift <= 31
    return Scale(layer.multiplier, layer.shift, 128 if layer.signed else 0, narrow)


def _seen(layer: Conv2d | Linear, source: Map) -> tuple[Window, NDArray[np.int8]]:
    """The window of a layer, and its weights (outputs, taps, channels)."""
    if isinstance(layer, Linear):
        size = (source.height, source.width)
        weight = layer.weight.reshape(len(layer.weight), source.channels, -1).transpose(0, 2, 1)
        return Window((1, 1), (1, 1), tuple(np.ndindex(size))), weight
    outputs, inputs, *kernel = layer.weight.shape
    full = np.zeros((outputs, source.channels, *kernel), np.int8)
    share = outputs // layer.groups
    for group in range(layer.groups):
        of = slice(group * share, (group + 1) * share)
        full[of, group * inputs : (group + 1) * inputs] = layer.weight[of]
    window = _window(
        layer, (kernel[0], kernel[1]), layer.dilation, _first_size(layer, (0, source.height, source.width))
    )
    return window, full.reshape(outputs, source.channels, -1).transpose(0, 2, 1)


def _first_size(layer: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    from hwgen.format.shapes import window_map

    kernel = layer.weight.shape[2:] if isinstance(layer, Conv2d) else layer.kernel
    return window_map(layer, shape[1], shape[2], kernel, getattr(layer, "dilation", (1, 1)))


def _window(layer: Any, kernel: tuple[int, int], dilation: tuple[int, int], size: tuple[int, int]) -> Window:
    taps = tuple(
        (y * dilation[0] - layer.padding[0], x * dilation[1] - layer.padding[1]) for y, x in np.ndindex(kernel)
    )
    return Window(size, layer.stride, taps)


def _border(layer: Any, extent: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) that the layer's windows reach beyond the map."""
    kernel = layer.weight.shape[2:] if isinstance(layer, Conv2d) else layer.kernel
    dilation = getattr(layer, "dilation", (1, 1))
    far = [
        max(0, (size[axis] - 1) * layer.stride[axis] + (kernel[axis] - 1) * dilation[axis] - layer.padding[axis] + 1 - extent[axis])
        for axis in range(2)
    ]  # fmt: skip
    return layer.padding[0], layer.padding[1], far[0], far[1]
