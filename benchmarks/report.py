"""Formatting of benchmark results for the terminal and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from shrinkml_env.text_table import format_table

__all__ = ["Section", "spread"]

Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def spread(values: tuple[float, float, float]) -> str:
    """Format (median, smallest, largest) as ``2.10x (1.95 to 2.30)``."""
    return f"{values[0]:.2f}x ({values[1]:.2f} to {values[2]:.2f})"


@dataclass(frozen=True, slots=True)
class Section:
    """The results of one benchmark.

    Attributes:
        title: Heading.
        method: Description of the measurement.
        tables: Caption -> (head, rows).
        remarks: Sentences below the tables.
    """

    title: str
    method: str
    tables: Mapping[str, Table]
    remarks: Sequence[str] = field(default=())

    def print(self) -> None:
        """Print the results."""
        print(f"{self.title}\n")
        for head, rows in self.tables.values():
            print(format_table(pd.DataFrame(rows, columns=list(head))) + "\n")
        print("\n".join(self.remarks))

    def markdown(self) -> str:
        """Return the results in Markdown."""
        parts = [f"## {self.title}", self.method]
        for head, rows in self.tables.values():
            lines = [head, ["---"] * len(head), *rows]
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        return "\n\n".join([*parts, *self.remarks])
