"""HTML pages in one file, which load nothing: styles, scripts, data and sound are in the page itself."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import jinja2

__all__ = ["Chart", "point", "render", "series", "wer_axes"]

PAGES = Path(__file__).with_name("pages")
UPLOT = PAGES / "uplot"

TICKS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Ticks of an axis of WERs, %."""


class Chart(TypedDict, total=False):
    """A chart, as ``pages/charts.js`` draws it.

    Attributes:
        series: What `series` returns, for each; those without points are left out.
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

    Its Content-Security-Policy allows the page's own scripts only, and no request.

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
    drawn = {
        name: {**chart, "series": [one for one in chart["series"] if one["points"]]} for name, chart in charts.items()
    }
    page = environment.get_template(template)
    return page.render(data=drawn, scripts=scripts, style=style, policy=policy, **values)


def wer_axes(measured_on: str) -> Chart:
    """Return a chart of WER against size without its series: linear up to 10 %, logarithmic above."""
    size = "size ratio (parameters of the compressed / the original model)"
    return Chart(x=size, y=f"WER on {measured_on}, %", ticks=TICKS)


def point(x: float, y: float, tip: Sequence[str] = ()) -> dict[str, Any]:
    """Return a point of a series; the mouse shows the tip's texts, the first as a heading."""
    return {"x": round(x, 5), "y": round(y, 5), **({"tip": list(tip)} if tip else {})}


def series(label: str, colour: str, points: list[dict[str, Any]], **style: Any) -> dict[str, Any]:
    """Return a series of a chart; its style is a `line` ("straight" or "stepped"), `dash`, and the `size` of points."""
    return {"label": label, "colour": colour, "points": points, **style}
