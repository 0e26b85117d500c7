from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from hwgen.plan.budget import LUT_SHARE, Budget, Needs
from hwgen.plan.paths import END, GAP, START, Edge, TooLarge, cheapest, shortest


def budget(dsp: int, lut: int, memory: int) -> Budget:
    """Of a board with so many multipliers, look-up tables that can be used, and blocks of memory."""
    board = SimpleNamespace(name="small", dsp=dsp, lut=round(lut / LUT_SHARE), block_ram_bits=memory * (18 << 10))
    made = Budget(board)
    assert made.limits == (dsp, lut, memory)
    return made


def chain(made: Budget, *choices: list[tuple[int, int, int]]) -> list[Edge]:
    """One node behind the other, with so many edges between two."""
    nodes = [START, *range(len(choices) - 1), END]
    return [
        Edge(begin, end, (), Needs(*needs), made.price(Needs(*needs)))
        for (begin, end), options in zip(itertools.pairwise(nodes), choices, strict=True)
        for needs in options
    ]


def needs_of(path: list[Edge]) -> tuple[int, ...]:
    return tuple(np.sum([edge.needs for edge in path], axis=0))


def test_the_cheapest_that_fits_is_a_mixture():
    # Each layer alone is cheapest in multipliers, of which there are enough for one only.
    board = budget(12, 9000, 10)
    choices = [(10, 0, 0), (0, 8500, 0)]
    edges = chain(board, choices, choices)
    assert needs_of(shortest(edges, lambda edge: edge.price)) == (20, 0, 0)
    assert needs_of(cheapest(edges, board)) == (10, 8500, 0)


def test_takes_what_is_there_to_the_last():
    board = budget(7, 900, 3)
    assert needs_of(cheapest(chain(board, [(3, 0, 1), (5, 10, 0)], [(4, 100, 2), (2, 890, 3)]), board)) == (7, 100, 3)
    edges = chain(board, [(3, 450, 0), (5, 0, 0)], [(3, 450, 0), (0, 0, 4)])
    assert needs_of(cheapest(edges, board)) == (6, 900, 0)


@pytest.mark.parametrize(
    ("choices", "message", "memory"),
    [
        ([(8, 0, 0), (9, 0, 0)], "8 multipliers, but small has 7", False),
        ([(0, 901, 0)], "901 look-up tables, but small has 900", False),
        ([(0, 0, 9), (1, 0, 8)], "8 blocks of block memory, but small has 3", True),
        # Enough of each, not of all.
        ([(8, 0, 0), (0, 901, 0)], "901 look-up tables", True),
    ],
)
def test_says_what_there_is_too_little_of(choices, message, memory):
    board = budget(7, 900, 3)
    with pytest.raises(TooLarge, match=message) as caught:
        cheapest(chain(board, choices), board)
    assert caught.value.memory == memory


def test_equals_trying_all():
    draw = np.random.default_rng(3)
    fitting = 0
    for _ in range(40):
        board = budget(*(int(n) for n in draw.integers([20, 200, 20], [40, 400, 40])))
        choices = [[tuple(draw.integers(0, [14, 140, 14]).tolist()) for _ in range(4)] for _ in range(5)]
        edges = chain(board, *choices)
        sums = [tuple(np.sum(taken, axis=0)) for taken in itertools.product(*choices)]
        fit = [board.price(Needs(*each)) for each in sums if not board.lack(Needs(*each))]
        if not fit:
            with pytest.raises(TooLarge):
                cheapest(edges, board)
            continue
        fitting += 1
        path = cheapest(edges, board)
        assert [edge.begin for edge in path] == [START, 0, 1, 2, 3] and path[-1].end == END
        taken = Needs(*needs_of(path))
        assert not board.lack(taken) and board.price(taken) <= min(fit) * (1 + 2 * GAP)
        assert path == cheapest(edges, board)
    assert 5 <= fitting <= 39
