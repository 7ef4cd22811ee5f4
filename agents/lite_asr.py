"""The rule of LiteASR: ranks that explain enough of the variance of what each matrix puts out."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import gymnasium as gym
from torch import Tensor

from agents.curves import EnergyCurve
from shrinkml_env import Evaluator, SearchProblem
from shrinkml_env.checks import whole_number
from shrinkml_env.compression import calibration_waveforms, output_variances
from shrinkml_env.data import UtteranceSpec

__all__ = ["LiteASR"]


class LiteASR(EnergyCurve):
    """The rule of LiteASR (Kamahori et al., EMNLP 2025, arXiv 2502.20583), for activation-aware factors.

    Each matrix gets the smallest multiple of 16 that explains more than a threshold of the variance of its outputs on
    calibration speech, see `output_variances`, and stays dense where two factors of this rank are no smaller. Attention
    has a lower threshold than the rest: with the authors' settings 0.99 beside 0.999, so that it may lose ten times the
    share that is lost elsewhere. One number, the share that is lost elsewhere, falls from 1 to 0 along the curve.

    Args:
        env: The environment, see `EpisodicSearch`.
        attention: Pattern of the names of attention's layers.
        lenience: The share that attention may lose, as a multiple of that of the others.
        multiple: Ranks are multiples of this.
        calibration: The speech, as `load_utterances` takes it; training speech of the model.
        seed: Seed of the environment; the search is deterministic.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any] | None = None,
        attention: str = "*attn*",
        lenience: float = 10.0,
        multiple: int = 16,
        calibration: UtteranceSpec = "calibration-large",
        seed: int | None = None,
    ) -> None:
        super().__init__(env, seed)
        self.attention = attention
        self.lenience = lenience
        self.multiple = whole_number("multiple", multiple, least=1)
        self.calibration = calibration

    def _spectra(self, problem: SearchProblem) -> Mapping[str, Tensor]:
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
        explains = (
            rank
            for rank, energy in zip(problem.candidates[index], self._energies[index], strict=False)
            if rank % self.multiple == 0 and energy > 1 - lost
        )
        return next(explains, layer.max_rank)
