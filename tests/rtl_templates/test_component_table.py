"""docs/components.md names every component, its file and an existing test."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

from amaranth.lib import wiring

import rtl_templates

HERE = Path(__file__).parent
TABLE = HERE.parents[1] / "docs" / "components.md"
COLUMNS = ["component", "file", "what it does", "latency", "initiation interval", "tested in"]


def rows() -> list[dict[str, str]]:
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in TABLE.read_text().splitlines()
        if line.startswith("|") and not line.startswith("|--")
    ]
    headings = [row for row in cells if row[0] == "component"]
    assert headings and all(row == COLUMNS for row in headings)
    return [dict(zip(COLUMNS, row, strict=True)) for row in cells if row[0] != "component"]


def components() -> dict[str, str]:
    """Name and file of every component."""
    found = {}
    for info in pkgutil.iter_modules(rtl_templates.__path__):
        module = importlib.import_module(f"rtl_templates.{info.name}")
        for name, value in vars(module).items():
            if inspect.isclass(value) and issubclass(value, wiring.Component) and value.__module__ == module.__name__:
                found[name] = f"{info.name}.py"
    return found


def test_names_every_component_once():
    assert components()
    listed = [(row["component"], row["file"]) for row in rows()]
    assert sorted(listed) == sorted(components().items())


def test_names_tests_that_exist():
    for row in rows():
        assert (HERE / row["tested in"]).is_file(), row


def test_leaves_no_cell_empty():
    for row in rows():
        assert all(row.values()), row
