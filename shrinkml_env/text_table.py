"""Formatting of data frames as text."""

from __future__ import annotations

import pandas as pd

__all__ = ["format_table"]


def format_table(frame: pd.DataFrame) -> str:
    """Return a data frame as aligned text, the first column flush left, the others flush right.

    Args:
        frame: The table. Cells are formatted by `str`; the index is omitted.
    """
    alignment = ["left", *["right"] * (len(frame.columns) - 1)]
    text: str = frame.astype(str).to_markdown(index=False, tablefmt="simple", colalign=alignment, disable_numparse=True)
    return text
