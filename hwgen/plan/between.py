"""From one MAC layer to the next: in which form a stream may reach it, and how narrow each stream can be."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from hwgen.errors import PlanError
from hwgen.format.network import Conv2d, Flatten, KWinners, Layer, Linear, Requantise
from hwgen.format.shapes import Tensor
from hwgen.plan.chain import REGISTER_WINNERS, Chain, TooSlow
from hwgen.plan.mac import distinct_parts
from hwgen.plan.stages import Stage
from hwgen.plan.stream import Stream

# What reaches a MAC layer: all values; a list for each position, or for a vector, entry by entry or a list a beat; one
# list for a whole map.
Form: TypeAlias = Literal["values", "lists", "whole lists", "word list"]


@dataclass(frozen=True)
class Step:
    """A layer with the tensors on both its sides."""

    layer: Layer
    before: Tensor
    after: Tensor


def can_list(steps: Sequence[Step], following: Linear | Conv2d | None, stream: Stream) -> bool:
    """Whether the stream that reaches `following` can be lists; `stream` is the one behind `steps`, as values."""
    if following is None or not steps:
        return False
    last = _last_winners(steps)
    if last is None or last.local or stream.positions == 1:
        return stream.most < stream.channels and (stream.channels <= REGISTER_WINNERS or last is not None)
    if isinstance(following, Linear):
        return stream.most_word < stream.channels * stream.positions
    return stream.most < stream.channels <= REGISTER_WINNERS


def can_list_whole(steps: Sequence[Step], following: Linear | Conv2d | None, stream: Stream) -> bool:
    """Whether the stream that reaches `following` can be whole lists: straight behind a local k-WTA of a map."""
    last = _last_winners(steps)
    return (
        isinstance(following, Conv2d)
        and last is not None
        and (last.local or stream.positions == 1)
        and stream.most < stream.channels <= REGISTER_WINNERS
    )


def can_scatter(steps: Sequence[Step], following: Linear | Conv2d | None, stream: Stream) -> bool:
    """Whether `following` can start from the winners of the whole map; `stream` is the one behind `steps`, as values."""
    last = _last_winners(steps)
    return (
        isinstance(following, Conv2d)
        and last is not None
        and not last.local
        and stream.positions > 1
        and stream.most_word < stream.channels * stream.positions
    )


def _last_winners(steps: Sequence[Step]) -> KWinners | None:
    for step in reversed(steps):
        if not isinstance(step.layer, Flatten):
            return step.layer if isinstance(step.layer, KWinners) else None
    return None


def follow(
    chain: Chain, steps: Sequence[Step], following: Linear | Conv2d | None, form: Form, widths: int = 1
) -> list[Chain]:
    """Adds the stages of `steps`, every stream as narrow as the limit allows; raises TooSlow where none will do.

    Args:
        chain: what stands before them; not changed.
        steps: up to the next MAC layer.
        following: that layer, if there is one.
        form: in which the stream shall reach it.
        widths: how many are tried of each stream, from the narrowest that keeps up.
    """
    first = next((index for index, step in enumerate(steps) if isinstance(step.layer, Requantise)), len(steps))
    if chain.bias_of is None:
        first = 0

    def through(lanes: int) -> list[Chain]:
        head = replace(chain, stages=list(chain.stages))
        head.narrow(chain.bias_of or "input", lanes)
        _through(head, steps[:first], None, "values")
        return _tails(head, steps[first:], following, form, widths)

    return _narrowest(chain.stream.lanes, through, widths)


def _tails(head: Chain, steps: Sequence[Step], following, form: Form, widths: int) -> list[Chain]:
    def through(lanes: int) -> list[Chain]:
        tail = replace(head, stages=list(head.stages))
        if steps or following is not None:
            tail.narrow(tail.bias_of or "input", lanes)
        _through(tail, steps, following, form)
        if drain_beats(tail.stages) > tail.drained_within:
            raise TooSlow(f"layer {tail.bias_of or 'input'!r}: its results leave on too narrow a stream")
        return [tail]

    if any(_in_memory(step) for step in steps) and not _emits_entries(steps, following, form):
        return through(1)
    return _narrowest(head.stream.lanes, through, widths)


def _narrowest(lanes: int, through: Callable[[int], list[Chain]], widths: int) -> list[Chain]:
    """What comes of the narrowest streams that keep up, so many of them; raises TooSlow where none does."""
    found: list[list[Chain]] = []
    problem: PlanError = TooSlow("no width of stream keeps up")
    for parts in distinct_parts(lanes):
        try:
            found.append(through(parts))
        except TooSlow as error:
            problem = error
        if len(found) == widths:
            break
    if not found:
        raise problem
    return [chain for chains in found for chain in chains]


def drain_beats(following: Sequence[Stage]) -> int:
    """Beats a word of the stream behind the Narrow stages that directly follow an engine; 0 where there are none."""
    narrow = itertools.takewhile(lambda stage: stage.kind == "narrow", following)
    return max((stage.cycles for stage in narrow), default=0)


def _in_memory(step: Step) -> bool:
    """Whether the layer is a k-WTA whose values surely go to a memory, which takes one value a beat."""
    channels, height, width = step.before.map_shape
    is_global = isinstance(step.layer, KWinners) and not step.layer.local
    return is_global and (height * width > 1 or channels > REGISTER_WINNERS)


def _emits_entries(steps: Sequence[Step], following, form: Form) -> bool:
    """Whether the last k-WTA before `following` leaves as entries."""
    winners = _last_winners(steps)
    return winners is not None and (
        form in ("word list", "whole lists")
        or (form == "lists" and (winners.local or chain_positions(steps) == 1 or isinstance(following, Linear)))
    )


def _through(chain: Chain, steps: Sequence[Step], following, form: Form) -> None:
    winners = _last_winners(steps) if _emits_entries(steps, following, form) else None
    for step in steps:
        emit = ("lists" if form == "whole lists" else "entries") if step.layer is winners else "values"
        chain.run(step.layer, step.after, emit)
    if form != "values" and chain.stream.entries is None:
        chain.compact(steps[-1].layer.name)
    if chain.stream.entries is None and chain.stream.beats > chain.limit:
        name = steps[-1].layer.name if steps else chain.bias_of or "input"
        raise TooSlow(
            f"layer {name!r}: {chain.stream.beats} beats a word are more than the {chain.limit} cycles asked for"
        )


def chain_positions(steps: Sequence[Step]) -> int:
    """Positions of the map behind the last layer that is not a Flatten."""
    for step in reversed(steps):
        if not isinstance(step.layer, Flatten):
            _, height, width = step.after.map_shape
            return height * width
    return 1
