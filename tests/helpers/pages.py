"""The pages of the documentation, and the code in them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

NOTEBOOKS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/notebooks/*.ipynb"))
"""Paths from the root of the checkout."""


def blocks(page: str) -> list[str]:
    """Return the Python blocks of a page, which is named by its path from the root of the checkout."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def cells(notebook: str | Path) -> list[dict[str, Any]]:
    """Return the cells of a notebook, which is named by its path from the root of the checkout; sources are texts."""
    found: list[dict[str, Any]] = json.loads((ROOT / notebook).read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in found]


def code_cells(notebook: str | Path) -> list[dict[str, Any]]:
    """Return the cells of a notebook that hold code."""
    return [cell for cell in cells(notebook) if cell["cell_type"] == "code"]
