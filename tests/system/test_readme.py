"""What the README and the pages beside it tell a reader to type works as it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parents[2] / "README.md"

PROJECT = """
import numpy as np
import torch
from torch import nn
from hwgen.nn import KWinners, KWinners2d
from hwgen.sparsify import apply_masks, complementary_mask

def make_model():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.MaxPool2d(2), KWinners2d(k=2), nn.Flatten(), nn.Linear(72, 8), KWinners(k=2), nn.Linear(8, 3)
    )
    apply_masks(model, {"4": complementary_mask(8, 72, 9, torch.Generator().manual_seed(0))})
    return model

model = make_model()
images = np.load("images.npy")
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "my_project.py").write_text(PROJECT)
    np.save(tmp_path / "images.npy", np.random.default_rng(0).random((80, 1, 8, 8), np.float32))
    return tmp_path


def call(folder: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], check=False, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_example_runs(project):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (project / "example.py").write_text(example)
    assert "words=16" in call(project, "example.py")


@pytest.mark.parametrize(("page", "count"), [("finetuning", 1), ("audit", 1), ("sparsify", 3)])
def test_the_examples_of_pages_run(project, page, count):
    examples = re.findall(r"```python\n(.*?)```", (README.parent / f"docs/{page}.md").read_text(), re.DOTALL)
    assert len(examples) == count
    for example in examples:
        (project / "example.py").write_text(example)
        call(project, "example.py")


def test_the_commands_run_in_their_order(project):
    commands = re.findall(r"^ {4}hwgen (.*)$", README.read_text(), re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["pack", "plan", "generate", "simulate", "run", "report"]
    for command in commands:
        call(project, "-c", "from hwgen.cli import main; main()", *shlex.split(command))
    assert np.load(project / "outputs.npy", allow_pickle=False).shape == (80, 3)


def test_the_links_lead_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", README.read_text())
    assert links
    for link in links:
        assert link.startswith("https://") or (README.parent / link).is_file(), link


def test_the_make_targets_exist():
    makefile = (README.parent / "Makefile").read_text()
    for target in re.findall(r"^ {4}make ([a-z-]+)", README.read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
