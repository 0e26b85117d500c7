"""What a plan is made of: the pipeline's stages as plain numbers, each with its cycles and its multipliers.

A stage's `cycles` is the time from one word to the next when neither side makes it wait. Buffers between stages hold
two words, and stages that read a buffer rest `WORD_GAP` cycles between words, so that the pipeline's interval is
exactly that of its slowest stage (docs/architecture.md, "Why the slowest stage decides").
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, TypeAlias

Layout: TypeAlias = tuple[tuple[int, ...], ...]
Pair: TypeAlias = tuple[int, int]

# Covers the hand-over of a buffer's banks in both directions.
WORD_GAP = 4


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Common to all stages.

    Attributes:
        name: of the network's layer.
        cycles: a word.
        multipliers: products formed in a cycle.
        products: useful products a word; for winner lists the mean over all lists of that length.
    """

    kind: ClassVar[str]
    name: str
    cycles: int
    multipliers: int = 0
    products: int = 0

    @property
    def utilisation(self) -> float:
        """Useful products / (multipliers * cycles)."""
        return self.products / (self.multipliers * self.cycles) if self.multipliers else 0.0

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class Source(Stage):
    """The input stream: `cycles` beats a word, `pixels` neighbours in a row a beat."""

    kind = "input"
    lanes: int
    pixels: int = 1
    layout: Layout
    positions: int


@dataclass(frozen=True, kw_only=True)
class Window:
    """A window that slides over a map.

    Attributes:
        map: (height, width) of the input.
        kernel, stride, padding, dilation: (vertical, horizontal).
        size: (height, width) of the output.
    """

    map: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    size: Pair

    @property
    def positions(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def area(self) -> int:
        return self.kernel[0] * self.kernel[1]


@dataclass(frozen=True, kw_only=True)
class Mac(Stage):
    """A Linear or Conv2d layer on a MAC engine.

    Attributes:
        mode: "dense", "sparse-dense" or "sparse-sparse".
        window: a Linear layer's window is the whole map, at one position.
        signed: activations are int8, else uint8.
        stream_lanes: values a beat, None for winner lists.
        beats: a pixel; for lists the length of a list.
        beats_per_row: beats that one read of the buffer returns.
        index_size: for lists: indices (channels) are below it.
        readers: reads of the buffer in a cycle.
        sets, kernels: complementary sets, accumulators a set.
        parallel: sets served in a cycle; the others are folded in time.
        list_rows: for lists: rows of the augmented weight tensor a column takes.
        steps: a group (one position and fold); interval: cycles a group.
        banks: of accumulators.
        accumulator_bits: two's complement.
        routed: False where of several kernels a set only the first has weights: kernel IDs are not stored.
        serial: one bank of accumulators, drained between two groups.
        weight_bits: in weight memories, kernel IDs included.
        nonzeros: weights in them that were not pruned; 0 where that is not known.
        layout: of the value stream that comes out.
    """

    kind = "mac"
    mode: str
    window: Window
    signed: bool
    stream_lanes: int | None
    beats: int
    beats_per_row: int
    index_size: int
    readers: int
    sets: int
    kernels: int
    parallel: int
    folds: int
    list_rows: int
    steps: int
    interval: int
    banks: int
    accumulator_bits: int
    weight_bits: int
    in_layout: Layout
    layout: Layout
    routed: bool = True
    serial: bool = False
    nonzeros: int = 0


@dataclass(frozen=True, kw_only=True)
class Unrolled(Stage):
    """A Conv2d layer whose constant weights are adders, with the max-pool behind it: a position a cycle.

    Attributes:
        mode: "sparse-dense".
        window: of the convolution.
        pool: (height, width) of the max-pool's windows, (1, 1) where there is none.
        signed: activations are int8, else uint8.
        channels: of the input.
        pixels: a beat of the input.
        adders, adder_bits: in the graph of all products and sums; widths of all adders together.
        lanes: values a beat of the output.
        accumulator_bits: two's complement.
        layout: of the value stream that comes out.
    """

    kind = "unrolled"
    mode: str
    window: Window
    pool: Pair
    signed: bool
    channels: int
    pixels: int
    adders: int
    adder_bits: int
    lanes: int
    accumulator_bits: int
    layout: Layout


@dataclass(frozen=True, kw_only=True)
class ListLanes(Stage):
    """A Conv2d layer behind winner lists, on lanes of either kind.

    Attributes:
        mode: "sparse-sparse".
        window: as of a Mac.
        signed: activations are int8, else uint8.
        entries: of a list.
        index_size: indices (channels) are below it.
        sets, kernels: complementary sets, all served at once, and accumulators a set.
        list_rows: rows of the augmented weight tensor a column takes.
        unpaired: lanes with a multiplier block for each product; in the others a block forms two.
        interval: cycles a position.
        accumulator_bits: two's complement.
        weight_bits: of the weights, kernel IDs included.
        layout: of the value stream that comes out.
    """

    mode: str
    window: Window
    signed: bool
    entries: int
    index_size: int
    sets: int
    kernels: int
    list_rows: int
    interval: int
    accumulator_bits: int
    weight_bits: int
    layout: Layout
    unpaired: int = 0

    @property
    def lanes(self) -> int:
        """Each forms a product of every set in a cycle."""
        return self.multipliers // self.sets


@dataclass(frozen=True, kw_only=True)
class Lanes(ListLanes):
    """A chain of lanes, one for a kernel offset, or a few offsets or fractions.

    Attributes:
        parts: that a lane serves for each position; each is a sub-list at a kernel offset.
        split: sub-lists that a list is cut into, as rtl_templates.sub_lists says.
    """

    kind = "lanes"
    parts: int
    split: int = 1


@dataclass(frozen=True, kw_only=True)
class WindowLanes(ListLanes):
    """Lanes that take windows in turn.

    Attributes:
        chains: of lanes, which share a window.
    """

    kind = "window lanes"
    chains: int


@dataclass(frozen=True, kw_only=True)
class Scatter(Stage):
    """A Conv2d layer behind a k-WTA over a whole map, on a scatter engine.

    Attributes:
        mode: "sparse-sparse".
        window: as of a Mac.
        signed: activations are int8, else uint8.
        channels: of the input.
        entries: of a word's list.
        sets, kernels: complementary sets, accumulators a set and position.
        parallel: sets served in a cycle; the others are folded in time.
        list_rows: rows of the augmented weight tensor a column takes.
        steps: a word.
        places: accumulators a set served, all positions and folds; the word that comes out has as many beats.
        accumulator_bits: two's complement.
        weight_bits: in the weight memory, kernel IDs included.
        layout: of the value stream that comes out.
    """

    kind = "scatter"
    mode: str
    window: Window
    signed: bool
    channels: int
    entries: int
    sets: int
    kernels: int
    parallel: int
    folds: int
    list_rows: int
    steps: int
    places: int
    accumulator_bits: int
    weight_bits: int
    layout: Layout


@dataclass(frozen=True, kw_only=True)
class Narrow(Stage):
    """Beats of `lanes_in` values become beats of `lanes_out`."""

    kind = "narrow"
    bits: int
    signed: bool
    lanes_in: int
    lanes_out: int
    layout: Layout


@dataclass(frozen=True, kw_only=True)
class DropEmpty(Stage):
    """Leaves out the beats that carry nothing; `in_layout` comes, `layout` goes."""

    kind = "drop-empty"
    bits: int
    signed: bool
    in_layout: Layout
    layout: Layout


@dataclass(frozen=True, kw_only=True)
class Pool(Stage):
    """Max or sum over windows, beat by beat."""

    kind = "pool"
    function: Literal["max", "sum"]
    window: Window
    bits: int
    signed: bool
    result_bits: int
    result_signed: bool
    lanes: int
    beats: int


@dataclass(frozen=True, kw_only=True)
class StreamPool(Stage):
    """Max or sum over windows that do not overlap, as the values pass."""

    kind = "stream pool"
    function: Literal["max", "sum"]
    map: Pair
    kernel: Pair
    bits: int
    signed: bool
    result_bits: int
    result_signed: bool
    lanes: int
    beats: int


@dataclass(frozen=True, kw_only=True)
class Requantise(Stage):
    """Bias, multiplier, shift, saturation; `bias_of` names the layer whose bias is added, if any."""

    kind = "requantise"
    bits: int
    in_signed: bool
    signed: bool
    layout: Layout
    bias_of: str | None


@dataclass(frozen=True, kw_only=True)
class AddBias(Stage):
    """The bias of the last layer, whose accumulators leave as they are."""

    kind = "add-bias"
    bits: int
    signed: bool
    layout: Layout
    bias_of: str


@dataclass(frozen=True, kw_only=True)
class ReLU(Stage):
    kind = "relu"
    bits: int
    signed: bool
    lanes: int


@dataclass(frozen=True, kw_only=True)
class LocalWinners(Stage):
    """k of the channels of each position; leaves as values, as k entries or as whole lists of k entries.

    `units` share the search; `emitters` take positions in turn.
    """

    kind = "local k-WTA"
    k: int
    units: int
    emitters: int
    positions: int
    signed: bool
    emit: str
    layout: Layout


@dataclass(frozen=True, kw_only=True)
class Compact(Stage):
    """The non-zero values of each position as a list of `size` entries."""

    kind = "compact"
    size: int
    positions: int
    signed: bool
    layout: Layout


@dataclass(frozen=True, kw_only=True)
class GlobalWinners(Stage):
    """k of all values of a word; `units` take words in turn."""

    kind = "global k-WTA"
    k: int
    units: int
    positions: int
    signed: bool
    emit: str
    layout: Layout


@dataclass(frozen=True, kw_only=True)
class Output:
    """The stream that leaves the pipeline."""

    lanes: int
    bits: int
    signed: bool
    layout: Layout
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A pipeline for one network.

    Attributes:
        board: name, or None where no board was asked for.
        family: of the FPGA for which every stage is written.
        ultra_ram: the FPGA has UltraRAM.
        mode: as asked for; each Mac stage has its own.
        stages: in the order in which data passes them.
    """

    board: str | None
    mode: str
    stages: tuple[Stage, ...]
    output: Output
    family: str = "ecp5"
    ultra_ram: bool = False

    def __repr__(self) -> str:
        """`to_json` tells everything."""
        return (
            f"Plan(board={self.board!r}, mode={self.mode!r}, {len(self.stages)} stages, "
            f"{self.cycles_per_word:,} cycles a word, {self.multipliers:,} multipliers)"
        )

    @property
    def cycles_per_word(self) -> int:
        return max(stage.cycles for stage in self.stages)

    @property
    def slowest(self) -> Stage:
        return max(self.stages, key=lambda stage: stage.cycles)

    @property
    def multipliers(self) -> int:
        return sum(stage.multipliers for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        return {
            "board": self.board,
            "family": self.family,
            "ultra_ram": self.ultra_ram,
            "mode": self.mode,
            "cycles_per_word": self.cycles_per_word,
            "multipliers": self.multipliers,
            "stages": [stage.to_json() for stage in self.stages],
            "output": asdict(self.output),
        }
