from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from shrinkml_env.asr import LAS, Distillation, JointCTCAttention, Tokenizer
from shrinkml_env.asr.las import Outputs
from shrinkml_env.asr.objectives import IGNORED, TrainingBatch, state_distance
from tests.helpers.las import make_model, noise

MODEL = make_model()


class Speaker(torch.nn.Module):
    """Gives the same logits whatever it hears."""

    def __init__(self, logits, tokenizer=MODEL.tokenizer):
        super().__init__()
        self.logits, self.tokenizer = logits, tokenizer

    def forward(self, features, lengths, previous):
        return Outputs(self.logits, (), ())


def lesson_of(labels):
    nothing = torch.zeros(0)
    return TrainingBatch(nothing, nothing, nothing, nothing, nothing, torch.tensor(labels))


def real_batch(model):
    features, lengths = model.features(noise(9000, 7000))
    eos = model.tokenizer.eos
    targets = torch.tensor([[5, 6, 7], [8, 9, eos]])
    previous = torch.nn.functional.pad(targets, (1, 0), value=eos)
    labels = torch.tensor([[5, 6, 7, eos], [8, 9, eos, IGNORED]])
    return TrainingBatch(features, lengths, targets, torch.tensor([3, 2]), previous, labels)


# Two units; probabilities 1/2, 1/2 and 3/4, 1/4, and a last place that does not count.
STUDENT = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0], [9.0, 0.0]]])
LESSON = lesson_of([[0, 1, IGNORED]])


def test_cross_entropy_by_hand():
    losses = JointCTCAttention(ctc_weight=0.0, label_smoothing=0.0)(MODEL, LESSON, Speaker(STUDENT)(None, None, None))
    assert losses.keys() == {"loss", "attention"}
    assert losses["loss"].item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    # A share of 0.2 goes to both units alike: 0.9 for the right one, 0.1 for the other.
    losses = JointCTCAttention(ctc_weight=0.0, label_smoothing=0.2)(MODEL, LESSON, Speaker(STUDENT)(None, None, None))
    expected = (math.log(2) + 0.9 * math.log(4) + 0.1 * math.log(4 / 3)) / 2
    assert losses["loss"].item() == pytest.approx(expected)


def test_ctc_has_its_share():
    batch = real_batch(MODEL)
    with torch.no_grad():
        outputs = MODEL(batch.features, batch.lengths, batch.previous)
        losses = {weight: JointCTCAttention(weight)(MODEL, batch, outputs) for weight in (0.0, 0.25, 1.0)}
    attention, ctc = losses[0.0]["loss"], losses[1.0]["loss"]
    assert losses[0.25]["loss"].item() == pytest.approx(0.75 * attention.item() + 0.25 * ctc.item())
    # Every alignment of an untrained head is about as likely as any other: -log p is near that of one path in all.
    assert 0 < ctc < batch.features.shape[1] * math.log(61)
    assert JointCTCAttention(0.0).unused_parameters == ("ctc",)
    assert JointCTCAttention(0.25).unused_parameters == ()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_a_student_that_is_the_teacher_has_nothing_to_learn(temperature):
    student = make_model()
    student.load_state_dict(MODEL.state_dict())
    batch = real_batch(student)
    objective = Distillation(MODEL, JointCTCAttention(0.0), weight=1.0, temperature=temperature, states=3.0)
    losses = objective(student, batch, student(batch.features, batch.lengths, batch.previous))
    assert losses["states"].item() == 0
    assert losses["loss"].item() == pytest.approx(0, abs=1e-6)
    losses["loss"].backward()
    assert all(p.grad is None or p.grad.abs().max() < 1e-6 for p in student.parameters())
    with torch.no_grad():
        student.decoder.output.bias[3] += 1
    losses = objective(student, batch, student(batch.features, batch.lengths, batch.previous))
    assert losses["divergence"] > 1e-4
    losses["loss"].backward()
    assert student.decoder.output.bias.grad.any()
    assert losses["states"].item() == 0
    with torch.no_grad():
        student.encoder.layers[0].norm.bias[3] += 1
    student.zero_grad()
    losses = objective(student, batch, student(batch.features, batch.lengths, batch.previous))
    assert losses["loss"].item() == pytest.approx(
        temperature**2 * losses["divergence"].item() + 3 * losses["states"].item()
    )
    losses["states"].backward()
    assert all(part.grad is None or not part.grad.any() for part in student.decoder.parameters())
    assert student.encoder.layers[0].norm.bias.grad.any()
    assert all(parameter.grad is None for parameter in MODEL.parameters())


def test_divergence_by_hand():
    # The teacher: 3/4, 1/4 where the student has 1/2, 1/2, then the same as the student.
    teacher = Speaker(torch.tensor([[[math.log(3), 0.0], [math.log(3), 0.0], [0.0, 7.0]]]))
    hard = JointCTCAttention(0.0, 0.0)
    cross_entropy = (math.log(2) + math.log(4)) / 2
    divergence = (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)) / 2
    losses = Distillation(teacher, hard, weight=0.3)(MODEL, LESSON, Speaker(STUDENT)(None, None, None))
    assert losses["divergence"].item() == pytest.approx(divergence)
    assert losses["loss"].item() == pytest.approx(0.7 * cross_entropy + 0.3 * divergence)
    # At temperature T the teacher's odds of 3 : 1 become 3 ** (1 / T) : 1.
    odds = math.sqrt(3)
    p = odds / (1 + odds)
    divergence = (p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))) / 2
    losses = Distillation(teacher, hard, 1.0, temperature=2.0)(MODEL, LESSON, Speaker(STUDENT)(None, None, None))
    assert losses["loss"].item() == pytest.approx(4 * divergence)


def test_distance_of_states_by_hand():
    # Of the first layer the first utterance has three frames, the second one; what stands behind does not count.
    teacher = torch.tensor([[[0.0, 2.0], [2.0, 2.0], [4.0, 5.0]], [[2.0, 7.0], [9e3, 9e3], [-9e3, 0.0]]])
    student = teacher + torch.tensor([[[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [5.0, 5.0], [5.0, 5.0]]])
    # 0, 2, 4, 2 have a variance of 8 / 4, and 2, 2, 5, 7 of 18 / 4; the student is off by 1 and 4 in eight squares.
    first = (5 / 8) / ((2 + 4.5) / 2)
    # A second layer that always says the mean.
    last = torch.tensor([[[1.0, 0.0]], [[3.0, 8.0]]])
    lengths = torch.tensor([3, 1]), torch.tensor([1, 1])
    mean = last.mean(0, keepdim=True).expand(2, 1, 2)
    nothing = torch.zeros(0)
    distance = state_distance(Outputs(nothing, (student, mean), lengths), Outputs(nothing, (teacher, last), lengths))
    assert distance.item() == pytest.approx((first + 1) / 2)


def test_bad_requests():
    for weight in -0.1, 1.1:
        with pytest.raises(ValueError, match="ctc_weight must be in"):
            JointCTCAttention(ctc_weight=weight)
        with pytest.raises(ValueError, match="weight must be in"):
            Distillation(MODEL, JointCTCAttention(), weight=weight)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        Distillation(MODEL, JointCTCAttention(), temperature=0)
    other = Speaker(STUDENT, Tokenizer.train(["call the cat", "late in the hall"], 12))
    with pytest.raises(ValueError, match="same subwords"):
        Distillation(other, JointCTCAttention(0.0))(MODEL, LESSON, Speaker(STUDENT)(None, None, None))
    with pytest.raises(ValueError, match="states, a weight, must be at least 0"):
        Distillation(MODEL, JointCTCAttention(), states=-1)
    smaller = LAS(replace(MODEL.config, encoder_units=4), MODEL.tokenizer, MODEL.decoding)
    batch = real_batch(MODEL)
    outputs = smaller(batch.features, batch.lengths, batch.previous)
    Distillation(MODEL, JointCTCAttention(0.0))(smaller, batch, outputs)
    with pytest.raises(ValueError, match="same layers, units and time reduction"):
        Distillation(MODEL, JointCTCAttention(0.0), states=1.0)(smaller, batch, outputs)
