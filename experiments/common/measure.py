"""Word errors of any model, compressed or not, with the evaluator's canonical arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

from shrinkml_env import CompressibleModel, Utterance
from shrinkml_env.evaluation import Counts, count_errors, recognise_all

__all__ = ["measure"]


def measure(model: CompressibleModel, utterances: Sequence[Utterance]) -> Counts:
    """Recognise utterances with a model and count the word errors."""
    references = [model.normalise(utterance.text) for utterance in utterances]
    return count_errors(model, references, recognise_all(model, utterances))
