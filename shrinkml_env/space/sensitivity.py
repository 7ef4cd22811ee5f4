"""The sensitivity of a model: its WER with a single layer compressed and all others dense."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from shrinkml_env.compression.layers import Layer
from shrinkml_env.evaluation.result import Evaluation
from shrinkml_env.files import parse_json, write_atomic

__all__ = ["LayerCurve", "Sensitivity", "require_factorisation"]

_FORMAT = "shrinkml-sensitivity-3"


class LayerCurve(NamedTuple):
    """The WER of a model with one layer compressed.

    Attributes:
        shapes: (rows, columns) of the layer's matrices, to detect the sensitivity of another model.
        wer: Rank below dense -> WER.
    """

    shapes: tuple[tuple[int, int], ...]
    wer: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """For each layer the WER at some of its ranks.

    Attributes:
        baseline_wer: The WER of the original, a fraction.
        curves: Layer name -> the WER at its ranks.
        factorisation: Name of the factorisation that was used.
    """

    baseline_wer: float
    curves: Mapping[str, LayerCurve]
    factorisation: str = "svd"

    @classmethod
    def measure(
        cls,
        choices: Iterable[tuple[Layer, Iterable[int]]],
        evaluate: Callable[[Mapping[str, int]], Evaluation],
        factorisation: str = "svd",
    ) -> Self:
        """Evaluate every layer at each of its candidates, and the original once.

        Args:
            choices: (layer, its ranks) for each layer to measure, as `SearchSpace.choices`; a dense rank is skipped.
            evaluate: A function of ranks that returns an evaluation; layers without an entry are dense. Each call is a
                unique evaluation.
            factorisation: Name of the factorisation that `evaluate` uses.
        """
        curves = {
            layer.name: LayerCurve(
                layer.shapes,
                {rank: evaluate({layer.name: rank}).wer for rank in ranks if layer.canonical(rank) != layer.max_rank},
            )
            for layer, ranks in choices
        }
        return cls(evaluate({}).wer, curves, factorisation)

    def losses(self, layer: Layer) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the measured ranks of a layer, ascending, and the increase in WER at each, shape (ranks,) both.

        Raises:
            ValueError: The layer was not measured, or the measured layer has other shapes.
        """
        curve = self.curves.get(layer.name)
        if curve is None or not curve.wer or curve.shapes != layer.shapes:
            lacks = "was not measured" if curve is None or not curve.wer else "was measured of a layer of other shapes"
            raise ValueError(
                f"layer {layer.name!r}: its sensitivity {lacks}; measure this model at this granularity with "
                "shrinkml_env.space.Sensitivity.measure and give the file that `save` writes as `path`"
            )
        ranks = sorted(curve.wer)
        return np.array(ranks), np.array([curve.wer[rank] for rank in ranks]) - self.baseline_wer

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the sensitivity as JSON."""
        curves = {name: curve._asdict() for name, curve in self.curves.items()}
        content = {
            "format": _FORMAT,
            "factorisation": self.factorisation,
            "baseline_wer": self.baseline_wer,
            "curves": curves,
        }
        write_atomic(path, json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None) -> Self:
        """Read what `save` wrote; by default the embedded model's sensitivity on the default proxy set.

        Raises:
            ValueError: The file is not a sensitivity.
            FileNotFoundError: There is no such file.
        """
        file: Any = resources.files("shrinkml_env") / "assets/sensitivity.json" if path is None else Path(path)
        if not file.is_file():
            raise FileNotFoundError(
                f"sensitivity: there is no file {file}; path must be one that Sensitivity.save wrote"
            )
        try:
            content = parse_json(file.read_bytes())
            if content["format"] != _FORMAT:
                raise ValueError(f"its format is {content['format']!r}, not {_FORMAT!r}")
            curves = {
                str(name): LayerCurve(
                    tuple((int(rows), int(columns)) for rows, columns in curve["shapes"]),
                    {int(rank): float(wer) for rank, wer in curve["wer"].items()},
                )
                for name, curve in content["curves"].items()
            }
            return cls(float(content["baseline_wer"]), curves, str(content["factorisation"]))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"{file} is not a sensitivity file, as Sensitivity.save writes it: {error}") from error


def require_factorisation(measured: str | None, used: str) -> None:
    """Check that a sensitivity was measured with the factorisation that a model is compressed with.

    Args:
        measured: Name of the factorisation of the sensitivity; None if there is no sensitivity.
        used: Name of the factorisation of the model.

    Raises:
        ValueError: The names differ.
    """
    if measured not in (None, used):
        raise ValueError(
            f"the sensitivity was measured with factorisation {measured!r}, the model is factored by {used!r}: measure "
            f"it with factorisation {used!r} by shrinkml_env.space.Sensitivity.measure and give the file that `save` "
            "writes as `path`"
        )
