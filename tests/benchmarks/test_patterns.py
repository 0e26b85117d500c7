from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks import patterns
from benchmarks.patterns import PATTERNS, SCHEDULES, Cell, harder, main, run, wanted


def made_up(pattern: str, schedule: str, seed: int, steps: int) -> Cell:
    return Cell(pattern, schedule, seed, steps, 0.9, 0.5 + seed / 4, 0.75, 1000 + 10 * seed, 30, (1.0, 1.0))


def test_every_pattern_meets_every_schedule() -> None:
    cells = wanted(seeds=1)
    assert len(set(cells)) == len(cells)
    assert cells[0] == ("none", "none", 0)
    for pattern in PATTERNS:
        for schedule in SCHEDULES:
            if schedule != "gradual, projected at the end" or pattern in ("1:10", "complementary, 10"):
                assert (pattern, schedule, 0) in cells


def test_it_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys) -> None:
    path, runs = tmp_path / "cells.jsonl", []

    def fail_at_last(*key):
        runs.append(key)
        if len(runs) == len(wanted(2)) - 1:
            raise KeyboardInterrupt
        return made_up(*key)

    monkeypatch.setattr(patterns, "run", fail_at_last)
    with pytest.raises(KeyboardInterrupt):
        main(seeds=2, steps=40, cells=path, as_json=True)
    main(seeds=2, steps=40, cells=path, as_json=True)
    # The interrupted cell is the only one that is made twice.
    assert len(runs) == len(wanted(2)) + 1 and len(set(runs)) == len(wanted(2))
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == len(wanted(1))
    assert rows[0]["accuracy"] == pytest.approx(0.625) and rows[0]["accuracies"] == [0.5, 0.75]
    assert rows[0]["cycles"] == 1005
    # Cells of another number of steps do not count.
    main(seeds=1, steps=80, cells=path, as_json=False)
    assert len(runs) == len(wanted(2)) + 1 + len(wanted(1))
    lines = capsys.readouterr().out.splitlines()
    assert "| unstructured | 50.0% / 75% / 1,000 | 50.0% / 75% / 1,000 |  | " in lines[4] and lines[-1].startswith(
        "Dense: 50.0%"
    )


def test_a_cell_is_what_was_asked_for() -> None:
    cell = run("complementary, 10", "gradual", seed=0, steps=40)
    assert cell.sparsity == 0.9 and cell.efficiency == 1.0
    assert 0 < cell.cycles and 0 < cell.multipliers


def test_images_lie_somewhere_under_noise() -> None:
    images = torch.zeros(400, 1, 8, 8)
    images[:, :, 3:5, 3:5] = 1.0
    field = harder(images, torch.Generator().manual_seed(0))
    assert field.shape == (400, 1, 20, 20)
    assert np.std(field[:, :, -1].numpy()) == pytest.approx(0.4, abs=0.02)
    # Of both images alike: the place is all that differs once the noise is averaged out.
    assert field.mean(0)[0, 9:12, 9:12].mean() > 0.4 > field.mean(0)[0, :4].mean()
