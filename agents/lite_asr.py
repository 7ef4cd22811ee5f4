"""The rule of LiteASR: ranks that explain enough of the variance of what each matrix puts out."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import gymnasium as gym
from torch import Tensor

from agents.curves import LayerCurve
from shrinkml_env import Evaluator, SearchProblem, kept_energy
from shrinkml_env.checks import number, whole_number
from shrinkml_env.compression import calibration_waveforms, output_variances
from shrinkml_env.data import UtteranceSpec

__all__ = ["LiteASR"]


class LiteASR(LayerCurve):
    """The rule of LiteASR (Kamahori et al., EMNLP 2025, arXiv 2502.20583), for activation-aware factors.

    Each matrix gets the smallest multiple of 16 that explains more than a threshold of the variance of its outputs on
    calibration speech, see `output_variances`, or the next larger candidate, and stays dense where two factors of this
    rank are no smaller. Attention has a lower threshold than the rest: with the authors' settings 0.99 beside 0.999, so
    that it may lose ten times the share that is lost elsewhere. One number, the share that is lost elsewhere, falls
    from 1 to 0 along the curve.

    Args:
        env: The environment, see `EpisodicSearch`.
        attention: Pattern of the names of attention's layers.
        lenience: The share that attention may lose, as a multiple of that of the others, above 0.
        multiple: Ranks are multiples of this, at least 1.
        calibration: The speech, as `load_utterances` takes it; training speech of the model.
        seed: Seed of the environment; the search is deterministic.

    Raises:
        ValueError: `lenience` or `multiple` is out of range.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any] | None = None,
        attention: str = "*att*n*",
        lenience: float = 10.0,
        multiple: int = 16,
        calibration: UtteranceSpec = "calibration-large",
        seed: int | None = None,
    ) -> None:
        super().__init__(env, seed)
        self.attention = attention
        self.lenience = number("lenience", lenience, above=0)
        self.multiple = whole_number("multiple", multiple, least=1)
        self.calibration = calibration

    def _prepare(self, problem: SearchProblem) -> None:
        values = self._deviations(problem)
        # For each layer: multiple below dense -> the share of the variance that it explains.
        self._explained = [
            {
                rank: kept_energy(layer, rank, values)
                for rank in range(self.multiple, layer.break_even + 1, self.multiple)
            }
            for layer in problem.layers
        ]

    def _deviations(self, problem: SearchProblem) -> Mapping[str, Tensor]:
        """Return the standard deviations of the outputs, from the evaluator's cache where they are known.

        Raises:
            ValueError: The problem has a table in place of a model.
        """
        evaluator = problem.evaluator
        if not isinstance(evaluator, Evaluator):
            raise ValueError("agent lite_asr needs a model, whose outputs it looks at: a table has none")
        waveforms = calibration_waveforms(evaluator.model, self.calibration)
        variances = output_variances(evaluator.model, waveforms, problem.layers, evaluator.cache)
        return {name: values.sqrt() for name, values in variances.items()}

    def _rank(self, problem: SearchProblem, index: int, level: float) -> int:
        layer = problem.layers[index]
        lost = (1 - level) * (self.lenience if fnmatchcase(layer.name, self.attention) else 1.0)
        explains = (rank for rank, share in self._explained[index].items() if share > 1 - lost)
        enough = next(explains, layer.max_rank)
        return next(rank for rank in problem.candidates[index] if rank >= enough)

    def _resolution(self, problem: SearchProblem) -> int:
        """Return a number of steps that separates the thresholds of neighbouring multiples."""
        return 2**14
