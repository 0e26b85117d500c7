"""From a packed network and a goal to a plan: pure arithmetic, milliseconds to seconds, no hardware generated."""

from __future__ import annotations

from math import inf, isqrt

from hwgen.errors import PlanError
from hwgen.format.packed import PackedNetwork
from hwgen.plan.budget import MOST_MULTIPLIERS, Board, Budget
from hwgen.plan.chain import UNLIMITED, TooSlow
from hwgen.plan.paths import TooLarge, cheapest
from hwgen.plan.pipelines import Entrance, Pipelines
from hwgen.plan.spare_blocks import with_spare_blocks
from hwgen.plan.stages import Layout, Output, Plan
from hwgen.plan.stream import Stream

# Widths of each stream that are tried where memory lacks.
MOST_WIDTHS = 3
MODES = ("dense", "sparse-dense", "sparse-sparse", "auto")


def make_plan(
    packed: PackedNetwork, *, board: str | Board | None = None, mode: str = "auto", cycles: int | None = None
) -> Plan:
    """Chooses every stage of the pipeline.

    Args:
        packed: the network.
        board: its multipliers, look-up tables and block memories bound the plan: a name of the catalogue, a Board, or
            None for no bound.
        mode: "dense", "sparse-dense", "sparse-sparse" or "auto" (the cheapest, layer by layer). Modes skip what they
            can: a layer whose input is not sparse runs sparse-dense under "sparse-sparse".
        cycles: the most cycles a word may take: the plan that takes the least of the board is chosen. None: the fastest
            plan that the board holds.

    Raises:
        PlanError: no such mode, or no plan reaches the goal; the line names the layer that stands in the way.
    """
    if mode not in MODES:
        raise PlanError(f"mode {mode!r} does not exist; choose one of {', '.join(MODES)}")
    if cycles is not None and (not isinstance(cycles, int) or cycles < 1):
        raise PlanError(f"cycles must be a positive integer or None, not {cycles!r}")
    if isinstance(board, str):
        # The catalogue is data; nothing of a board's tools is imported.
        from boards.catalogue import board as board_named

        board = board_named(board)
    if board is not None and not isinstance(board, Board):
        raise PlanError(f"board must be a board's name, a Board or None, not {board!r}")
    search = _Search(packed, mode, Budget(board, MOST_MULTIPLIERS if cycles is None else inf))
    if cycles is None:
        return search.fastest()
    try:
        return search.cheapest(cycles)
    except PlanError as error:
        # Streams are as narrow as the limit allows; at a tighter one they may suit the engines behind them better.
        if (plan := search.fastest_or_none()) is not None and plan.cycles_per_word <= cycles:
            return plan
        if isinstance(error, TooLarge):
            raise PlanError(
                f"{cycles} cycles a word take {error}; allow more cycles or choose a larger board"
            ) from None
        raise


class _Search:
    """For plans of one network, mode and budget."""

    def __init__(self, packed: PackedNetwork, mode: str, budget: Budget):
        self.mode, self.budget = mode, budget
        self.pipelines = Pipelines(packed, mode, budget)

    def cheapest(self, limit: int) -> Plan:
        """The cheapest plan within `limit` cycles; raises TooSlow or TooLarge where there is none."""
        try:
            path = cheapest(self.pipelines.within(limit), self.budget)
        except TooLarge as error:
            if not error.memory:
                raise
            # Wider streams take more of everything but memory: what is read less often fits into fewer blocks, or none.
            path = cheapest(self.pipelines.within(limit, MOST_WIDTHS), self.budget)
        output = path[-1].begin
        assert isinstance(output, Entrance)
        stream, shape = output.stream, self.pipelines.output.shape
        return Plan(
            board=self.budget.board.name if self.budget.board else None,
            mode=self.mode,
            stages=with_spare_blocks([stage for edge in path for stage in edge.stages], self.budget),
            output=Output(
                lanes=stream.lanes,
                bits=stream.bits,
                signed=stream.signed,
                layout=_flattened(stream) if len(shape) == 1 else stream.layout,
                shape=shape,
            ),
            family=self.budget.family,
            ultra_ram=self.budget.ultra_ram,
        )

    def fastest(self) -> Plan:
        """Bisection over the limit: plans get cheaper as they get slower."""
        try:
            best = self.cheapest(UNLIMITED)
        except TooLarge as error:
            raise PlanError(f"the smallest plan in mode {self.mode!r} takes {error}; choose a larger board") from None
        low, high = 1, best.cycles_per_word
        while low < high:
            # Halves the ratio of the bounds first, then their difference.
            middle = isqrt(low * high) if high > 2 * low else (low + high) // 2
            try:
                best = self.cheapest(middle)
                high = best.cycles_per_word
            except (TooSlow, TooLarge):
                low = middle + 1
        return best

    def fastest_or_none(self) -> Plan | None:
        """The fastest plan, if there is any."""
        try:
            return self.fastest()
        except PlanError:
            return None


def _flattened(stream: Stream) -> Layout:
    """A map's stream as that of one vector, in torch's order of C, H, W."""
    return tuple(
        tuple(channel * stream.positions + position if channel >= 0 else -1 for channel in row)
        for position in range(stream.positions)
        for row in stream.layout
    )
