"""The report of a search: on the terminal, as a picture, as an HTML page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import jinja2
import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from experiments.common.report import save_figure
from shrinkml_env import Evaluation, SearchResult
from shrinkml_env.files import write_whole

__all__ = ["print_result", "write_report"]


def print_result(result: SearchResult, directory: Path) -> None:
    """Print the result of a search and its folder."""
    print(f"\n{result!r}")
    print(f"model, measurements and report: {directory}")
    print(f"check the saved model anew:     python -m experiments.validate run={directory}")


def write_report(directory: Path, result: SearchResult, uniform: Sequence[Evaluation]) -> None:
    """Write ``search.png`` and ``report.html``.

    Args:
        directory: The folder of the run.
        result: The result of the search.
        uniform: The evaluations of uniform ranks on the proxy set, for the picture; may be empty.
    """
    _draw(directory / "search.png", result, uniform)
    page = jinja2.Environment(autoescape=True).from_string(_PAGE)
    picture = base64.b64encode((directory / "search.png").read_bytes()).decode("ascii")
    write_whole(directory / "report.html", page.render(result=result, picture=picture))


def _draw(path: Path, result: SearchResult, uniform: Sequence[Evaluation]) -> None:
    figure, axes = plt.subplots(figsize=(7, 4.5), constrained_layout=True)
    evaluated = [trial.evaluation for trial in result.history]
    scatter = axes.scatter(
        [evaluation.size_ratio for evaluation in evaluated],
        [100 * evaluation.wer for evaluation in evaluated],
        c=range(1, len(evaluated) + 1),
        cmap="viridis",
        s=18,
        label="evaluated",
    )
    figure.colorbar(scatter, label="evaluation")
    curve = sorted(uniform, key=lambda evaluation: evaluation.size_ratio)
    if curve:
        axes.plot(
            [evaluation.size_ratio for evaluation in curve],
            [100 * evaluation.wer for evaluation in curve],
            "o-",
            color="tab:gray",
            markersize=4,
            label="uniform rank fraction",
        )
    proxy = result.sets["proxy"]
    axes.plot(result.size_ratio, 100 * proxy.wer_after, "*", color="tab:red", markersize=16, label="chosen")
    axes.axhline(100 * proxy.wer_before, color="black", linewidth=1, linestyle="--", label="original")
    # The logarithmic part keeps broken models in the picture, the linear part separates the good ones.
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(0, None)
    axes.set_yticks([0, 2, 5, 10, 20, 50, 100])
    axes.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axes.set_xlabel("size ratio (parameters of the compressed / the original model)")
    axes.set_ylabel("WER on the proxy set, % (logarithmic above 10)")
    axes.set_title(f"{result.config['title']}: {result.evaluations} evaluations")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    axes.grid(alpha=0.3)
    save_figure(figure, path, dpi=130)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ result.config.title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 2rem } th, td { padding: .25rem .9rem; text-align: right }
th:first-child, td:first-child { text-align: left } th { border-bottom: 2px solid #888 } img { max-width: 100% }
</style></head><body>
<h1>{{ result.config.title }}</h1>
<p>Size ratio <b>{{ "%.3f" | format(result.size_ratio) }}</b>
({{ "%.1f" | format(1 / result.size_ratio) }} times smaller) after {{ result.evaluations }} evaluations on the proxy
set. The search saw the proxy set alone; the configuration was chosen on dev; test is what to quote.</p>
{% for note in result.notes %}<p>{{ note }}</p>
{% endfor -%}
{{ result.model_table().to_html(index=False, border=0) | safe }}
<img alt="WER against size" src="data:image/png;base64,{{ picture }}">
{{ result.layer_table().to_html(index=False, border=0) | safe }}
<p>A matrix of m x n numbers at rank r is stored as r (m + n) numbers where that is less, and else as it was.</p>
<table><tr><th>search</th><th></th></tr>
{% for name, value in result.config.settings.items() %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}{% for name, value in result.rewards.items() %}<tr><td>reward on {{ name }}</td>
<td>{{ "%.4f" | format(value) }}</td></tr>
{% endfor %}</table>
<p>The whole config is in <code>config.yaml</code> beside this page, every measurement in
<code>evaluations.jsonl</code>. To check the saved models: <code>python -m experiments.validate run=FOLDER</code>.</p>
</body></html>
"""
