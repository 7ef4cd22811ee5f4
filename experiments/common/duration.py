"""Estimates of how long `experiments.compress` will take."""

from __future__ import annotations

import time

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from agents import ClosedForm
from experiments.common.goal import HALVINGS, STEP_FINALISTS
from experiments.common.parts import activation_aware, part
from experiments.common.searches import compensates
from experiments.common.speech import Speech
from shrinkml_env import CompressibleModel, load_utterances
from shrinkml_env.compression.protocol import require_predictions
from shrinkml_env.envs.assembly import search_space_maker
from shrinkml_env.space.level_spaces import LevelSpace

__all__ = ["estimated_seconds", "factoring_time"]

PREDICTION = 1.4
"""Time of recognition and prediction together, which share the encoder, as a multiple of the time of recognition."""

GRADIENT = 2.5
"""Time of a pass with gradients, as a multiple of the time of recognition."""


def estimated_seconds(
    config: DictConfig, search: DictConfig, model: CompressibleModel, speech: Speech, seconds: float, predicts: bool
) -> float:
    """Return roughly how many seconds factors, search, choice and report will take, without a training.

    Args:
        config: The config of `experiments.compress`.
        search: The config of its search.
        model: The original.
        speech: The speech that models are measured on.
        seconds: The time that the original takes for the proxy set.
        predicts: Whether each measurement predicts as well as recognises.
    """
    searches = 1 if config.max_wer_increase is None else 1 + HALVINGS
    fitting = 0.0
    factors = activation_aware(search.factorisation)
    embedded = load_utterances("calibration-large" if factors is None else factors.calibration, "calibration")
    calibration = speech.seconds["calibration"] if speech.folder else sum(utterance.duration for utterance in embedded)
    passes = GRADIENT * predictions(search)
    if factors is not None:
        if config.finetune is None and compensates(search, model):
            # Each matrix takes its own stage of the model twice.
            matrices = sum(len(layer.matrices) for layer in model.layers)
            fitting = 2 * calibration * matrices / (1 + len(require_predictions(model).stages))
        passes += 1 + factors.augmented_copies + GRADIENT * factors.weigh_rows
    finalists = min(search.finalists, search.budget) + (searches - 1) * min(STEP_FINALISTS, search.finalists)
    # With the original once on each set.
    models = {"proxy": searches + search.budget, "dev": 1 + finalists, "test": 2}
    measured = sum(count * speech.seconds[name] for name, count in models.items())
    pace = seconds / speech.seconds["proxy"]
    recognised = (PREDICTION if predicts else 1) * measured + searches * passes * calibration + fitting
    return float(pace * recognised + searches * factoring_time(model))


def predictions(search: DictConfig) -> int:
    """Return how many gradients of each utterance the predictions of search space and rules take, all rounds.

    A rule predicts its further rounds twice: for the search, and for the report, at the size that was found.
    """
    found, further = set(), 0
    space = search_space_maker(part("search_space", search.search_space))
    rules = instantiate(search.agent.get("rules") or [], _convert_="all")
    for predicting in (space, *rules):
        if isinstance(predicting, LevelSpace | ClosedForm):
            found.add((str(predicting.calibration), predicting.draws))
        if isinstance(predicting, ClosedForm):
            further += 2 * (predicting.rounds - 1) * predicting.draws
    return sum(draws for _, draws in found) + further


def factoring_time(model: CompressibleModel) -> float:
    """Return roughly how many seconds the decomposition of all matrices takes, from the time of a small one."""
    size = 256
    begun = time.perf_counter()
    torch.linalg.svd(torch.eye(size, dtype=torch.float64) + 1, full_matrices=False)
    one = (time.perf_counter() - begun) / size**3
    matrices = [matrix for layer in model.layers for matrix in layer.matrices]
    work = sum(matrix.rows * matrix.columns * min(matrix.rows, matrix.columns) for matrix in matrices)
    return float(one * work)
