"""Winner lists cut into equal sub-lists; without Amaranth, so that a plan can use it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SubLists:
    """A list of entries as it lies in a lane's FIFO, in rows of two entries, and is cut: into sub-lists of whole rows.

    Where a list with an odd number of entries is cut, an entry of value 0 fills its last row.

    Attributes:
        entries: of a list.
        split: sub-lists of a list, a divisor of its rows; 1 leaves it whole.

    Raises:
        ValueError: there are no entries, or rows would have to be cut.
    """

    entries: int
    split: int = 1

    def __post_init__(self) -> None:
        if self.entries < 1:
            raise ValueError(f"entries must be positive, not {self.entries!r}")
        if self.split not in self.splits():
            splits = ", ".join(map(str, self.splits()))
            raise ValueError(f"split must be one of {splits}, not {self.split!r}: a sub-list has whole rows")

    @property
    def row_entries(self) -> int:
        """Entries of a row: two, which a block of 36 bits holds, so that writing is faster than reading."""
        return min(2, self.entries)

    @property
    def list_rows(self) -> int:
        """Rows of a list."""
        return -(-self.entries // self.row_entries)

    @property
    def rows(self) -> int:
        """Rows of a sub-list, and the cycles that writing it takes."""
        return self.list_rows // self.split

    @property
    def reads(self) -> int:
        """Entries of a sub-list that a lane reads, the one that fills it up included."""
        return self.entries if self.split == 1 else self.rows * self.row_entries

    def splits(self) -> list[int]:
        """All ways to cut the list."""
        return [split for split in range(1, self.list_rows + 1) if self.list_rows % split == 0]
