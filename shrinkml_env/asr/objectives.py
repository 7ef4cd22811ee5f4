"""Training objectives: losses of the transcript, and of the distance from a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from shrinkml_env.asr.features import lengths_mask
from shrinkml_env.asr.las import LAS, Outputs

__all__ = ["IGNORED", "Distillation", "JointCTCAttention", "Objective", "TrainingBatch"]

IGNORED = -100
"""The label of positions beyond an utterance's end, which the loss ignores."""


class TrainingBatch(NamedTuple):
    """One batch of training data.

    Attributes:
        features: Zero-padded features, (batch, frames, channels).
        lengths: Number of frames of each utterance, (batch,).
        targets: Subwords without the end of sentence, (batch, units), padded with the end-of-sentence unit.
        target_lengths: Number of subwords of each utterance, (batch,).
        previous: The decoder's input before each label, (batch, units + 1).
        labels: The units to predict: the subwords, one end of sentence, then `IGNORED`, (batch, units + 1).
    """

    features: Tensor
    lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    previous: Tensor
    labels: Tensor


class Objective(Protocol):
    """A loss, of one or several parts."""

    @property
    def unused_parameters(self) -> tuple[str, ...]:
        """Prefixes of the parameters that the loss does not depend on; they are not trained."""

    def __call__(self, model: LAS, batch: TrainingBatch, outputs: Outputs) -> dict[str, Tensor]:
        """Return ``"loss"``, the mean over the batch to minimise, and its parts by name; all are scalars.

        Args:
            model: The model that is trained.
            batch: The training data.
            outputs: The model's outputs for the batch.
        """


@dataclass(frozen=True, slots=True)
class JointCTCAttention:
    """A weighted mean of the decoder's cross-entropy and the encoder's CTC loss (Kim et al., arXiv 1609.06773).

    Attributes:
        ctc_weight: Weight of the CTC loss, in [0, 1]; the attention loss has 1 - ctc_weight. At 0 the CTC head is not
            trained.
        label_smoothing: Label smoothing of the attention loss.

    Raises:
        ValueError: `ctc_weight` is outside [0, 1].
    """

    ctc_weight: float = 0.3
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        _require_share("ctc_weight", self.ctc_weight)

    @property
    def unused_parameters(self) -> tuple[str, ...]:
        """The CTC head, if its weight is 0."""
        return () if self.ctc_weight else ("ctc",)

    def __call__(self, model: LAS, batch: TrainingBatch, outputs: Outputs) -> dict[str, Tensor]:
        """See `Objective.__call__`."""
        logits, labels = outputs.logits.flatten(0, 1).float(), batch.labels.flatten()
        attention = functional.cross_entropy(logits, labels, ignore_index=IGNORED, label_smoothing=self.label_smoothing)
        if not self.ctc_weight:
            return {"loss": attention, "attention": attention}
        scores = model.ctc(outputs.states[-1]).float().log_softmax(2).transpose(0, 1)
        ctc = functional.ctc_loss(
            scores,
            batch.targets,
            outputs.lengths[-1],
            batch.target_lengths,
            blank=len(model.tokenizer),
            zero_infinity=True,
        )
        return {"loss": (1 - self.ctc_weight) * attention + self.ctc_weight * ctc, "attention": attention, "ctc": ctc}


class Distillation:
    """Knowledge distillation from a teacher, in addition to another objective.

    The student learns from the teacher's token distributions (Hinton et al. 2015, arXiv 1503.02531) and from the states
    of its encoder layers (Romero et al. 2015, arXiv 1412.6550), which need no projection if the student is a compressed
    copy. Teacher and student get the same features and the same previous units (Beyer et al. 2022, arXiv 2106.05237).
    With p and q the teacher's and the student's distributions of the next unit at a temperature T, and KL(p || q)
    averaged over all units and ends of sentences of the batch, the loss is
    (1 - weight) * objective + weight * T^2 * KL(p || q) + states * distance (see `state_distance`).

    Args:
        teacher: The teacher, which is frozen. It needs the student's tokenizer, and the student's encoder sizes if
            `states` is above 0.
        objective: The other objective.
        weight: Weight of the divergence, in [0, 1].
        temperature: T > 0, which divides both models' logits.
        states: Weight of the states' distance, at least 0.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(
        self, teacher: LAS, objective: Objective, weight: float = 0.5, temperature: float = 1.0, states: float = 0.0
    ) -> None:
        _require_share("weight", weight)
        if not temperature > 0:
            raise ValueError(f"the temperature must be above 0, got {temperature}")
        if not states >= 0:
            raise ValueError(f"states, a weight, must be at least 0, got {states}")
        self.teacher = teacher.eval().requires_grad_(False)
        self.objective = objective
        self.weight = weight
        self.temperature = temperature
        self.states = states

    @property
    def unused_parameters(self) -> tuple[str, ...]:
        """Those of the other objective, since the distances involve no CTC head."""
        return self.objective.unused_parameters

    def __call__(self, model: LAS, batch: TrainingBatch, outputs: Outputs) -> dict[str, Tensor]:
        """See `Objective.__call__`.

        Raises:
            ValueError: Teacher and student have different tokenizers, or states of different shapes.
        """
        if self.teacher.tokenizer.to_text() != model.tokenizer.to_text():
            raise ValueError("teacher and student must have the same subwords: their tokenizers differ")
        parts = self.objective(model, batch, outputs)
        with torch.no_grad():
            targets = self.teacher.to(outputs.logits.device)(batch.features, batch.lengths, batch.previous)
        spoken = batch.labels != IGNORED
        teacher, student = (
            (logits[spoken].float() / self.temperature).log_softmax(1) for logits in (targets.logits, outputs.logits)
        )
        divergence = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
        loss = (1 - self.weight) * parts["loss"] + self.weight * self.temperature**2 * divergence
        parts = {**parts, "divergence": divergence}
        if self.states:
            distance = state_distance(outputs, targets)
            loss, parts = loss + self.states * distance, {**parts, "states": distance}
        return {**parts, "loss": loss}


def state_distance(student: Outputs, teacher: Outputs) -> Tensor:
    """Return the squared distance of the encoders' states over the variance of the teacher's, a mean over the layers.

    For each layer the squared distance and the variance over the batch's frames are averaged over the layer's units. A
    student whose states are always the teacher's mean has the distance 1.

    Raises:
        ValueError: The encoders differ in layers, units or time reduction.
    """
    if [states.shape for states in student.states] != [states.shape for states in teacher.states]:
        raise ValueError(
            "to learn from a teacher's states a student needs an encoder of the same layers, units and time reduction: "
            "set the weight of the states to 0 or take another teacher"
        )
    distances = []
    for ours, theirs, lengths in zip(student.states, teacher.states, teacher.lengths, strict=True):
        spoken = lengths_mask(lengths, ours.shape[1])
        wanted, found = theirs[spoken].float(), ours[spoken].float()
        distances.append((found - wanted).square().mean() / wanted.var(0, correction=0).mean())
    return torch.stack(distances).mean()


def _require_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}")
