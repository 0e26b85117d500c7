# amaranth: UnusedElaboratable=no
from __future__ import annotations

import pytest
from amaranth import unsigned

from rtl_templates.word_buffer import WordBuffer
from sim.bench import run_bench


@pytest.mark.parametrize(
    ("bits", "positions", "beats", "beats_per_row", "readers"),
    [(7, 5, 3, 2, 2), (9, 1, 1, 1, 1), (3, 4, 4, 4, 1), (5, 3, 7, 1, 3)],
)
def test_reads_what_was_sent(bits, positions, beats, beats_per_row, readers):
    component = WordBuffer(unsigned(bits), positions, beats, beats_per_row, readers)
    run_bench(
        component,
        "tests.rtl_templates.word_buffer_bench",
        parameters={
            "bits": bits,
            "positions": positions,
            "beats": beats,
            "beats_per_row": beats_per_row,
            "readers": readers,
        },
    )


def test_rows_of_a_position_are_rounded_up():
    buffer = WordBuffer(unsigned(7), positions=5, beats=3, beats_per_row=2)
    assert (buffer.rows_per_position, buffer.rows, buffer.address_bits) == (2, 10, 4)


@pytest.mark.parametrize("name", ["positions", "beats", "beats_per_row", "readers"])
def test_refuses(name):
    arguments = {"positions": 2, "beats": 2, "beats_per_row": 1, "readers": 1, name: 0}
    with pytest.raises(ValueError, match=f"{name} must be positive, not 0"):
        WordBuffer(unsigned(8), **arguments)
