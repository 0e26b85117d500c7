"""How the command line talks: figures on standard output, progress and errors on standard error."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

Report: TypeAlias = Callable[[str, float | None], None]


@contextlib.contextmanager
def progress() -> Iterator[Report]:
    """A bar for each piece of work; call the result with its name and the share that is done, or None if unknown.

    A thread's new piece of work ends its last one.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        current: dict[int, tuple[str, TaskID]] = {}

        def report(name: str, share: float | None) -> None:
            thread = threading.get_ident()
            if thread not in current or current[thread][0] != name:
                if thread in current:
                    bars.update(current[thread][1], total=1.0, completed=1.0)
                current[thread] = (name, bars.add_task(name, total=None))
            bars.update(current[thread][1], total=None if share is None else 1.0, completed=share or 0.0)

        yield report
        for _, task in current.values():
            bars.update(task, total=1.0, completed=1.0)


def say(message: str) -> None:
    """A line for people, on standard error."""
    typer.echo(message, err=True)


def print_json(value: Any) -> None:
    """The one JSON object of a command."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> None:
    """A table on standard output; all but the first `left` columns hold numbers."""
    console = Console()
    if not console.is_terminal:
        # A pipe has no width: nothing is folded there.
        console = Console(width=240)
    table = _table(columns, rows, left)
    if console.measure(table).maximum >= console.width:
        # A word to a line, before rich breaks words to make room.
        table = _table([column.replace(" ", "\n") for column in columns], rows, left)
    # Rich's own title is only as wide as the table.
    console.print(title, style="italic", markup=False, highlight=False)
    console.print(table)


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]], left: int) -> Table:
    # Without vertical lines, so that more columns fit a terminal.
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, show_header=any(columns))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(_text(cell)) for cell in row))
    return table


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
