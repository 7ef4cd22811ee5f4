"""The registry of factorisations, and the factorisation of a model by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import torch

from shrinkml_env.checks import number, whole_number
from shrinkml_env.compression import (
    SVD,
    ActivationAwareSVD,
    CompressibleModel,
    FactorForm,
    Factorisation,
    calibration_waveforms,
)
from shrinkml_env.compression.activation_aware import SMALLEST_DAMPING
from shrinkml_env.compression.store import Store
from shrinkml_env.data.augment import Augmentation
from shrinkml_env.data.sets import UtteranceSpec
from shrinkml_env.registry import resolve

__all__ = ["BEST", "FACTORISATIONS", "ActivationAware", "PlainSVD", "factorisation_maker", "make_factorisation"]


@dataclass(frozen=True, slots=True)
class PlainSVD:
    """The truncated SVD of the weights; see `SVD`.

    Attributes:
        form: The form of the factors, ``"factors"`` or ``"pivoting"``.
    """

    form: FactorForm = "factors"

    def __post_init__(self) -> None:
        _require_form(self.form)

    def __call__(self, model: CompressibleModel, store: Store | None = None) -> Factorisation:
        """Prepare the factors of a model's matrices; nothing of it needs a store."""
        return SVD(model, form=self.form)


@dataclass(frozen=True, slots=True)
class ActivationAware:
    """The SVD that keeps the outputs on calibration speech; see `ActivationAwareSVD`.

    Attributes:
        calibration: What `load_utterances` takes; the shipped set is training speech of the embedded model.
        damping: How far the inputs' moments are pulled towards white ones, at least 1e-9.
        form: The form of the factors, ``"factors"`` or ``"pivoting"``.
        share_inputs: Matrices of a layer that read the same vectors share one right factor.
        weigh_rows: An output of a matrix counts as much as the transcripts' probability depends on it.
        augmented_copies: Copies of each utterance at random speeds, in random rooms and noise (`Augmentation`), that
            are recognised besides: more speech for the moments.
    """

    calibration: UtteranceSpec = "calibration"
    damping: float = 0.01
    form: FactorForm = "factors"
    share_inputs: bool = False
    weigh_rows: bool = False
    augmented_copies: int = 0

    def __post_init__(self) -> None:
        _require_form(self.form)
        number("factorisation: damping", self.damping, at_least=SMALLEST_DAMPING)
        whole_number("factorisation: augmented_copies", self.augmented_copies, least=0)

    def __call__(self, model: CompressibleModel, store: Store | None = None) -> Factorisation:
        """Recognise the calibration speech, and prepare the factors of a model's matrices.

        Args:
            model: An uncompressed model in evaluation mode.
            store: Where the moments and row weights are kept, so that later processes need not compute them again; None
                keeps nothing.

        Raises:
            ValueError: There is no such set, an utterance is too short for the model, or as `ActivationAwareSVD`.
            FileNotFoundError: The set's folder is missing.
        """
        waveforms = calibration_waveforms(model, self.calibration)
        augment, generator = Augmentation(), torch.Generator().manual_seed(0)
        copies = [augment(waveform, generator) for _ in range(self.augmented_copies) for waveform in waveforms]
        return ActivationAwareSVD(
            model,
            waveforms,
            self.damping,
            form=self.form,
            share_inputs=self.share_inputs,
            weigh_rows=self.weigh_rows,
            # A copy may be faster than its original, and too short.
            more=[copy for copy in copies if copy.numel() >= getattr(model, "shortest", 1)],
            store=store,
        )


def _require_form(form: str) -> None:
    if form not in get_args(FactorForm):
        raise ValueError(f"factorisation: form must be 'factors' or 'pivoting', got {form!r}")


BEST = {"name": "activation_aware", "form": "pivoting", "share_inputs": True, "weigh_rows": True}
"""The factors that lose least, without their calibration speech."""

FACTORISATIONS: dict[str, Callable[..., Callable[..., Factorisation]]] = {
    "svd": PlainSVD,
    "activation_aware": ActivationAware,
}
"""Name -> class. An object of the class makes the factorisation of a model; the factorisation has the same name."""


def factorisation_maker(spec: Any = "svd") -> Callable[..., Factorisation]:
    """Return a function that makes the factorisation of a model.

    Args:
        spec: As the argument `factorisation` of `make_env`.
    """
    return resolve("factorisation", FACTORISATIONS, spec, Callable)


def make_factorisation(model: CompressibleModel, spec: Any = "svd", store: Store | None = None) -> Factorisation:
    """Make the factorisation of a model; `spec` as the argument `factorisation` of `make_env`.

    Args:
        model: The original.
        spec: What `make_env` takes.
        store: Where the library's own methods keep what is slow to compute, such as an `EvaluationCache`.
    """
    if isinstance(spec, Factorisation):
        return spec
    maker = factorisation_maker(spec)
    return maker(model, store) if isinstance(maker, PlainSVD | ActivationAware) else maker(model)
