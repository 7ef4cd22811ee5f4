"""Tables for the terminal and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from shrinkml_env.tables import format_table

__all__ = ["Section", "spread"]

Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def spread(values: tuple[float, float, float]) -> str:
    """``2.10x (1.95 to 2.30)`` of median, smallest and largest."""
    return f"{values[0]:.2f}x ({values[1]:.2f} to {values[2]:.2f})"


@dataclass(frozen=True, slots=True)
class Section:
    """One measurement.

    Attributes:
        title: Its heading.
        method: What was measured, and how.
        tables: Caption -> head and rows.
        remarks: One sentence each.
    """

    title: str
    method: str
    tables: Mapping[str, Table]
    remarks: Sequence[str] = field(default=())

    def print(self) -> None:
        """For the terminal."""
        print(f"{self.title}\n")
        for head, rows in self.tables.values():
            print(format_table(pd.DataFrame(rows, columns=list(head))) + "\n")
        print("\n".join(self.remarks))

    def markdown(self) -> str:
        """For the page."""
        parts = [f"## {self.title}", self.method]
        for head, rows in self.tables.values():
            lines = [head, ["---"] * len(head), *rows]
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        return "\n\n".join([*parts, *self.remarks])
