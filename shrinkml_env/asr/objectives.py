"""What a training minimises: losses of the transcript, and of the distance from a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from shrinkml_env.asr.features import lengths_mask
from shrinkml_env.asr.las import LAS, Outputs

__all__ = ["IGNORED", "Distillation", "JointCTCAttention", "Lesson", "Objective"]

IGNORED = -100
"""The label behind an utterance's end."""


class Lesson(NamedTuple):
    """One batch as a model is taught it.

    Attributes:
        features: (batch, frames, channels), zero-padded.
        lengths: Frames of each utterance, (batch,).
        targets: Subwords without end of sentence, (batch, units), padded with it.
        target_lengths: Subwords of each utterance, (batch,).
        previous: What the decoder is told to have said so far, (batch, units + 1).
        labels: What it is to say next: the subwords, one end of sentence, then `IGNORED`, (batch, units + 1).
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
    def idle(self) -> tuple[str, ...]:
        """Prefixes of the parameters that it does not depend on: they are not trained."""

    def __call__(self, model: LAS, lesson: Lesson, outputs: Outputs) -> dict[str, Tensor]:
        """``"loss"``, a mean over the batch that is minimised, and its parts by name; scalars.

        Args:
            model: In training.
            lesson: What it was taught.
            outputs: What it made of it.
        """


@dataclass(frozen=True, slots=True)
class JointCTCAttention:
    """Cross-entropy of the decoder's units, and in part CTC of the encoder's states (Kim et al., arXiv 1609.06773).

    Attributes:
        ctc_weight: Weight of the CTC loss; the attention loss has the rest. At 0 there is no CTC and its head is idle.
        label_smoothing: Of the attention loss.
    """

    ctc_weight: float = 0.3
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        _require_share("ctc_weight", self.ctc_weight)

    @property
    def idle(self) -> tuple[str, ...]:
        """The CTC head, where it has no weight."""
        return () if self.ctc_weight else ("ctc",)

    def __call__(self, model: LAS, lesson: Lesson, outputs: Outputs) -> dict[str, Tensor]:
        """See `Objective.__call__`."""
        logits, labels = outputs.logits.flatten(0, 1).float(), lesson.labels.flatten()
        attention = functional.cross_entropy(logits, labels, ignore_index=IGNORED, label_smoothing=self.label_smoothing)
        if not self.ctc_weight:
            return {"loss": attention, "attention": attention}
        scores = model.ctc(outputs.states[-1]).float().log_softmax(2).transpose(0, 1)
        ctc = functional.ctc_loss(
            scores,
            lesson.targets,
            outputs.lengths[-1],
            lesson.target_lengths,
            blank=len(model.tokenizer),
            zero_infinity=True,
        )
        return {"loss": (1 - self.ctc_weight) * attention + self.ctc_weight * ctc, "attention": attention, "ctc": ctc}


class Distillation:
    """Learning from a teacher as well.

    From its token distributions (Hinton et al. 2015, arXiv 1503.02531), and from the states of its encoder layers
    (Romero et al. 2015, arXiv 1412.6550), which those of a truncated copy can be compared with as they are. The teacher
    hears the same features and is told the same history as the student, so that both answer the same
    question (Beyer et al. 2022, arXiv 2106.05237). With p and q the teacher's and the student's distributions of the
    next unit at a temperature T, averaged over all units and ends of sentences of the batch, the loss is
    (1 - weight) * objective + weight * T^2 * KL(p || q) + states * distance (see `state_distance`).

    Args:
        teacher: Frozen here; of the same subwords as the student, and of the same encoder sizes if there are states.
        objective: What is learned besides.
        weight: Of the divergence, in [0, 1].
        temperature: T > 0: divides both models' logits.
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
    def idle(self) -> tuple[str, ...]:
        """What the other objective does not depend on: the teacher has no CTC head."""
        return self.objective.idle

    def __call__(self, model: LAS, lesson: Lesson, outputs: Outputs) -> dict[str, Tensor]:
        """See `Objective.__call__`.

        Raises:
            ValueError: Teacher and student have other subwords, or states that cannot be compared.
        """
        if self.teacher.tokenizer.to_text() != model.tokenizer.to_text():
            raise ValueError("teacher and student must have the same subwords: their tokenizers differ")
        parts = self.objective(model, lesson, outputs)
        with torch.no_grad():
            taught = self.teacher.to(outputs.logits.device)(lesson.features, lesson.lengths, lesson.previous)
        spoken = lesson.labels != IGNORED
        teacher, student = (
            (logits[spoken].float() / self.temperature).log_softmax(1) for logits in (taught.logits, outputs.logits)
        )
        divergence = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
        loss = (1 - self.weight) * parts["loss"] + self.weight * self.temperature**2 * divergence
        parts = {**parts, "divergence": divergence}
        if self.states:
            distance = state_distance(outputs, taught)
            loss, parts = loss + self.states * distance, {**parts, "states": distance}
        return {**parts, "loss": loss}


def state_distance(student: Outputs, teacher: Outputs) -> Tensor:
    """Squared distance of the encoder layers' states, over the teacher's variance: 1 for who always says the mean.

    The variance is that over the frames of the batch; both are means over the values of a layer, and the result is the
    mean over the layers, a scalar.

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
