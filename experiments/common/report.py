"""What a search found, for people: a table, a picture, a page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from experiments.common.measure import Measured
from experiments.common.statistics import Estimate
from shrinkml_env import Evaluation, Layer

__all__ = ["Result", "SetResult", "draw_uniform_curve", "format_table", "print_result", "write_report"]

_MODELS = ("original", "compressed")


@dataclass(frozen=True, slots=True)
class SetResult:
    """Word errors, and utterances cut off by their token limit, on one set before and after compression."""

    utterances: int
    words: int
    edits_before: int
    edits_after: int
    capped_before: int
    capped_after: int

    @classmethod
    def of(cls, before: Evaluation | Measured, after: Evaluation | Measured) -> SetResult:
        """From two measurements on the same set."""
        return cls(
            len(before.words), sum(before.words), sum(before.edits), sum(after.edits), before.capped, after.capped
        )

    @property
    def wer_before(self) -> float:
        """A fraction."""
        return self.edits_before / self.words

    @property
    def wer_after(self) -> float:
        """A fraction."""
        return self.edits_after / self.words

    def to_json(self) -> dict[str, Any]:
        """All of it, with both WERs."""
        return {**asdict(self), "wer_before": self.wer_before, "wer_after": self.wer_after}


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a search; pairs are (original, compressed).

    Attributes:
        title: What was run.
        settings: What it was made of, for people: ``"reward"`` -> ``"Linear(size_weight=0.2)"``.
        layers: In forward order.
        ranks: Layer name -> rank.
        params: Parameters.
        encoder_params: Those of the encoder alone, if the model says what that is.
        file_bytes: Of the saved tensors.
        sets: Name -> word errors.
        rewards: Name -> reward of the compressed model on the set; empty if it was trained after the search.
        evaluations: Unique evaluations that the search used.
        wer_increase: On test, a fraction, with its interval.
        notes: What else there is to say, a sentence or two each.
    """

    title: str
    settings: dict[str, str]
    layers: tuple[Layer, ...]
    ranks: dict[str, int]
    params: tuple[int, int]
    encoder_params: tuple[int, int] | None
    file_bytes: tuple[int, int]
    sets: dict[str, SetResult]
    rewards: dict[str, float]
    evaluations: int
    wer_increase: Estimate
    notes: tuple[str, ...] = ()

    @property
    def size_ratio(self) -> float:
        """Parameters kept, in (0, 1]."""
        return self.params[1] / self.params[0]

    def to_json(self) -> dict[str, Any]:
        """What ``best.json`` holds and validation compares with."""
        return {
            "title": self.title,
            "settings": self.settings,
            "ranks": self.ranks,
            "rewards": self.rewards,
            "size_ratio": self.size_ratio,
            "params": dict(zip(_MODELS, self.params, strict=True)),
            "encoder_params": self.encoder_params and dict(zip(_MODELS, self.encoder_params, strict=True)),
            "file_bytes": dict(zip(_MODELS, self.file_bytes, strict=True)),
            "evaluations": self.evaluations,
            "wer_increase": self.wer_increase._asdict(),
            "sets": {name: measured.to_json() for name, measured in self.sets.items()},
        }

    def _encoder_rows(self) -> list[tuple[str, str, str]]:
        if self.encoder_params is None:
            return []
        original, compressed = self.encoder_params
        return [("of the encoder", f"{original:,}", f"{compressed:,} ({compressed / original:.3f})")]

    def _points(self) -> list[float]:
        return [100 * value for value in self.wer_increase]

    def layer_rows(self) -> list[tuple[str, str, str, str]]:
        """Name, shapes, rank, share of parameters kept."""
        return [
            (
                layer.name,
                _shapes(layer),
                "dense" if self.ranks[layer.name] == layer.max_rank else str(self.ranks[layer.name]),
                f"{100 * layer.parameters(self.ranks[layer.name]) / layer.parameters(layer.max_rank):.0f} %",
            )
            for layer in self.layers
        ]

    def model_rows(self) -> list[tuple[str, str, str]]:
        """What, before, after."""
        original, compressed = self.params
        return [
            ("parameters", f"{original:,}", f"{compressed:,}"),
            *self._encoder_rows(),
            ("file", f"{self.file_bytes[0] / 1e6:.2f} MB", f"{self.file_bytes[1] / 1e6:.2f} MB"),
            *(
                (f"{name} WER", f"{100 * measured.wer_before:.2f} %", f"{100 * measured.wer_after:.2f} %")
                for name, measured in self.sets.items()
            ),
            ("test WER, points more, 95 % interval", "", "{:+.2f} [{:+.2f}, {:+.2f}]".format(*self._points())),
            (
                "hit the token limit, utterances",
                str(sum(measured.capped_before for measured in self.sets.values())),
                str(sum(measured.capped_after for measured in self.sets.values())),
            ),
        ]


def _shapes(layer: Layer) -> str:
    """``2 of 768 x 384, 2 of 768 x 192``."""
    counts: dict[tuple[int, int], int] = {}
    for shape in layer.shapes:
        counts[shape] = counts.get(shape, 0) + 1
    return ", ".join(f"{f'{count} of ' if count > 1 else ''}{m} x {n}" for (m, n), count in counts.items())


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns in line: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [head, *rows]
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def print_result(result: Result, directory: Path) -> None:
    """The outcome on the terminal."""
    print()
    print(format_table(("layer", "shape", "rank", "parameters kept"), result.layer_rows()))
    print()
    print(format_table(("model", "original", "compressed"), result.model_rows()))
    print()
    print(
        f"{result.title}: size ratio {result.size_ratio:.3f} ({1 / result.size_ratio:.1f}x smaller) "
        f"after {result.evaluations} evaluations, "
        f"test WER {100 * result.sets['test'].wer_before:.2f} % -> {100 * result.sets['test'].wer_after:.2f} %"
    )
    for note in result.notes:
        print(note)
    print(f"model, measurements and report: {directory}")
    print(f"check the saved model anew:     python -m experiments.validate run={directory}")


def write_report(directory: Path, result: Result, history: Sequence[Evaluation], uniform: Sequence[Evaluation]) -> None:
    """``search.png`` and ``report.html``.

    Args:
        directory: Of the run.
        result: The outcome.
        history: Every configuration that the search measured on the proxy set.
        uniform: The uniform-rank curve on the proxy set.
    """
    figure, axes = plt.subplots(figsize=(7, 4.5), constrained_layout=True)
    points = axes.scatter(
        [evaluation.size_ratio for evaluation in history],
        [100 * evaluation.wer for evaluation in history],
        c=range(1, len(history) + 1),
        cmap="viridis",
        s=18,
        label="evaluated",
    )
    figure.colorbar(points, label="evaluation")
    curve = sorted(uniform, key=lambda evaluation: evaluation.size_ratio)
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
    # Broken models all look alike; the logarithm keeps them in the picture and the good ones apart.
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(0, None)
    axes.set_yticks([0, 2, 5, 10, 20, 50, 100])
    axes.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axes.set_xlabel("size ratio (parameters of the compressed / the original model)")
    axes.set_ylabel("WER on the proxy set, % (logarithmic above 10)")
    axes.set_title(f"{result.title}: {result.evaluations} evaluations")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(directory / "search.png", dpi=130)
    plt.close(figure)
    page = jinja2.Environment(autoescape=True).from_string(_PAGE)
    picture = base64.b64encode((directory / "search.png").read_bytes()).decode("ascii")
    (directory / "report.html").write_text(page.render(result=result, picture=picture), encoding="utf-8")


def draw_uniform_curve(path: Path, curve: Sequence[Evaluation]) -> None:
    """WER against size, the original included."""
    figure, axes = plt.subplots(figsize=(7, 4), constrained_layout=True)
    curve = sorted(curve, key=lambda evaluation: evaluation.size_ratio)
    axes.plot([e.size_ratio for e in curve], [100 * e.wer for e in curve], "o-", color="tab:gray")
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(0, None)
    axes.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axes.set_xlabel("size ratio (parameters of the compressed / the original model)")
    axes.set_ylabel("WER, %")
    axes.set_title("The same fraction of the break-even rank for every layer")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)
    plt.close(figure)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ result.title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 2rem } th, td { padding: .25rem .9rem; text-align: right }
th:first-child, td:first-child { text-align: left } th { border-bottom: 2px solid #888 } img { max-width: 100% }
</style></head><body>
<h1>{{ result.title }}</h1>
<p>Size ratio <b>{{ "%.3f" | format(result.size_ratio) }}</b>
({{ "%.1f" | format(1 / result.size_ratio) }} times smaller) after {{ result.evaluations }} evaluations on the proxy
set. The search saw the proxy set alone; the configuration was chosen on dev; test is what to quote.</p>
{% for note in result.notes %}<p>{{ note }}</p>
{% endfor -%}
<table><tr><th>model</th><th>original</th><th>compressed</th></tr>
{% for row in result.model_rows() %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
<img alt="WER against size" src="data:image/png;base64,{{ picture }}">
<table><tr><th>layer</th><th>shape</th><th>rank</th><th>parameters kept</th></tr>
{% for row in result.layer_rows() %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
<p>A matrix of m x n numbers at rank r is stored as r (m + n) numbers where that is less, and else as it was.</p>
<table><tr><th>search</th><th></th></tr>
{% for name, value in result.settings.items() %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}{% for name, value in result.rewards.items() %}<tr><td>reward on {{ name }}</td>
<td>{{ "%.4f" | format(value) }}</td></tr>
{% endfor %}</table>
<p>The whole config is in <code>config.yaml</code> beside this page, every measurement in
<code>evaluations.jsonl</code>. To check the saved models: <code>python -m experiments.validate run=FOLDER</code>.</p>
</body></html>
"""


def save_wer_against_size(figure: Any, axes: Any, path: Path, size: str) -> None:
    """Scale and label the axes of a study's picture of test WERs, and write it.

    Args:
        figure: What is closed.
        axes: With the curves.
        path: Of the PNG.
        size: What the size is called.
    """
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    axes.set_xlabel(size)
    axes.set_ylabel("WER on test, %")
    axes.invert_xaxis()
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=130)
    plt.close(figure)
