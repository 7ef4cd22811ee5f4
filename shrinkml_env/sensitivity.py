"""What compressing a single layer costs, all others dense."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from shrinkml_env.compression.layers import Layer
from shrinkml_env.evaluation.result import Evaluation

__all__ = ["Sensitivity"]

_FORMAT = "shrinkml-sensitivity-1"


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """For each layer the WER at some of its ranks.

    Attributes:
        baseline_wer: Of the original, a fraction.
        curves: Layer name -> rank below dense -> WER with this layer alone compressed.
    """

    baseline_wer: float
    curves: Mapping[str, Mapping[int, float]]

    @classmethod
    def measure(
        cls,
        layers: Iterable[Layer],
        candidates: Iterable[Iterable[int]],
        evaluate: Callable[[Mapping[str, int]], Evaluation],
    ) -> Self:
        """Evaluate every layer at each of its candidates; dense is measured once for all.

        Args:
            layers: Those to measure.
            candidates: For each of them its ranks, dense among them or not.
            evaluate: Ranks (what they leave out is dense) -> measurement; each call is a unique evaluation.
        """
        curves = {
            layer.name: {
                rank: evaluate({layer.name: rank}).wer for rank in ranks if layer.canonical(rank) != layer.max_rank
            }
            for layer, ranks in zip(layers, candidates, strict=True)
        }
        return cls(evaluate({}).wer, curves)

    def losses(self, layer: Layer) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The measured ranks of a layer, ascending, and the WER that each loses against the original.

        Raises:
            ValueError: The layer was not measured.
        """
        curve = self.curves.get(layer.name)
        if not curve:
            raise ValueError(
                f"layer {layer.name!r}: its sensitivity was not measured; run python -m experiments.sensitivity for "
                "this model and granularity and give its file as `path`"
            )
        ranks = sorted(curve)
        return np.array(ranks), np.array([curve[rank] for rank in ranks]) - self.baseline_wer

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON."""
        content = {"format": _FORMAT, "baseline_wer": self.baseline_wer, "curves": self.curves}
        Path(path).write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None) -> Self:
        """Read what `save` wrote; by default the embedded model's sensitivity on the default proxy set.

        Raises:
            ValueError: The file is something else.
            FileNotFoundError: There is no such file.
        """
        # Measured with the command in the error message below, on the default proxy set.
        file: Any = resources.files("shrinkml_env") / "assets/sensitivity.json" if path is None else Path(path)
        try:
            content = json.loads(file.read_text())
            if content["format"] != _FORMAT:
                raise ValueError(f"its format is {content['format']!r}, not {_FORMAT!r}")
            curves = {
                str(name): {int(rank): float(wer) for rank, wer in curve.items()}
                for name, curve in content["curves"].items()
            }
            return cls(float(content["baseline_wer"]), curves)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{file} is no sensitivity (python -m experiments.sensitivity writes one): {error}"
            ) from error
