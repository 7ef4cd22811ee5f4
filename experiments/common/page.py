"""HTML pages in one file, which load nothing: styles, scripts, data and sound are in the page itself."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import jinja2

from shrinkml_env import Evaluation

__all__ = ["Chart", "front", "render", "wer_axes"]

PAGES = Path(__file__).with_name("pages")
UPLOT = PAGES / "uplot"

TICKS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Ticks of an axis of WERs, %."""


class Chart(TypedDict, total=False):
    """A chart, as ``pages/charts.js`` draws it.

    Attributes:
        series: For each series its label, colour, style and points ``{x, y, tip}``; the tip is a list of texts, the
            first of which is a heading.
        x: Label of the x axis.
        y: Label of the y axis.
        ticks: Ticks of a y axis from 0 that is logarithmic above 10; without them the axis is linear.
    """

    series: list[dict[str, Any]]
    x: str
    y: str
    ticks: Sequence[float]


def render(template: str, charts: dict[str, Chart], **values: Any) -> str:
    """Return a page.

    The browser is told to run the page's own scripts only, and to request nothing.

    Args:
        template: Name of the template in ``pages/``.
        charts: The id of an element of the page -> the chart in it.
        values: Further values for the template. Texts are escaped.
    """
    scripts = [
        f"/*!\n{(UPLOT / 'LICENSE').read_text(encoding='utf-8')}*/\n"
        f"{(UPLOT / 'uPlot.iife.min.js').read_text(encoding='utf-8')}",
        (PAGES / "charts.js").read_text(encoding="utf-8"),
    ]
    style = "".join(path.read_text(encoding="utf-8") for path in (UPLOT / "uPlot.min.css", PAGES / "style.css"))
    ours = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(it.encode()).digest()).decode()}'" for it in scripts)
    policy = f"default-src 'none'; script-src {ours}; style-src 'unsafe-inline'; img-src data:; media-src data:"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template(template)
    return page.render(data=charts, scripts=scripts, style=style, policy=policy, **values)


def wer_axes(measured_on: str) -> Chart:
    """Return a chart of WER against size without its series."""
    size = "size ratio (parameters of the compressed / the original model)"
    return Chart(x=size, y=f"WER on {measured_on}, % (logarithmic above 10)", ticks=TICKS)


def front(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return the evaluations to which no other one is preferable in both size and WER, by size."""
    found: list[Evaluation] = []
    for evaluation in sorted(evaluations, key=lambda one: (one.size_ratio, one.wer)):
        if not found or evaluation.wer < found[-1].wer:
            found.append(evaluation)
    return found
