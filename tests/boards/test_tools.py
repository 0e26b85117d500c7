from __future__ import annotations

import pytest

from boards.tools import run_tool, version
from hwgen.errors import ToolError


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A nextpnr of the user's own."""
    path = tmp_path / "nextpnr"
    path.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "nextpnr (Version nextpnr-0.9-3-gabc)" >&2\necho "$@"\n')
    path.chmod(0o755)
    monkeypatch.setenv("NEXTPNR_ECP5", str(path))
    return path


def test_a_program_named_by_the_environment_is_used(program, tmp_path):
    assert version("nextpnr-ecp5") == "nextpnr-0.9-3-gabc"
    run_tool("nextpnr-ecp5", ["--85k"], tmp_path, tmp_path / "log")
    assert (tmp_path / "log").read_text() == "--85k\n"


def test_a_program_that_does_not_run_is_named(program):
    program.unlink()
    with pytest.raises(ToolError, match=f"NEXTPNR_ECP5: {program} does not run"):
        version("nextpnr-ecp5")


def test_an_empty_variable_names_nothing(monkeypatch):
    monkeypatch.setenv("NEXTPNR_ECP5", "")
    assert version("nextpnr-ecp5").startswith("0.")
