"""Data frames as text."""

from __future__ import annotations

import pandas as pd

__all__ = ["format_table"]


def format_table(frame: pd.DataFrame) -> str:
    """Return a data frame as aligned text: the first column to the left, the others to the right.

    Args:
        frame: Its cells are shown as `str` gives them; its index is left out.
    """
    alignment = ["left", *["right"] * (len(frame.columns) - 1)]
    text: str = frame.astype(str).to_markdown(index=False, tablefmt="simple", colalign=alignment, disable_numparse=True)
    return text
