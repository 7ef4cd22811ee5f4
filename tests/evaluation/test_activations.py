import math

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from shrinkml_env import compress
from shrinkml_env.compression import SVD, find_layers, split_layers
from shrinkml_env.evaluation import ActivationError, Evaluator
from tests.helpers.models import TinyCTC, half_recognised, tones

MODEL = TinyCTC()
UTTERANCES = half_recognised(MODEL)

WAVEFORMS = tones(2)
ERROR = ActivationError(MODEL, MODEL.layers, WAVEFORMS, SVD(MODEL))


def test_the_last_layers_error_by_hand():
    ranks = {"front": 9, "output": 3}
    compressed = compress(MODEL, ranks)
    with torch.inference_mode():
        expected = torch.cat([MODEL.logits(waveform) for waveform in WAVEFORMS])
        found = torch.cat([compressed.logits(waveform) for waveform in WAVEFORMS])
    assert ERROR(ranks) == pytest.approx(((found - expected).norm() / expected.norm()).item(), rel=1e-5)
    assert 0 < ERROR(ranks) < 2


def test_what_comes_before_counts():
    alone, after = ERROR({"gru": 12}), ERROR({"front": 1, "gru": 12})
    assert 0 < alone < after
    # A dense layer passes on what reaches it.
    assert ERROR({"front": 1, "gru": 24}) > 0


def test_dense_changes_nothing():
    assert ERROR({}) == 0
    assert ERROR({layer.name: layer.max_rank for layer in MODEL.layers}) == 0


def test_lower_ranks_move_more():
    errors = [ERROR({"hidden": rank}) for rank in (13, 8, 4, 1)]
    assert errors == sorted(errors)


def test_single_matrices():
    by_matrix = ActivationError(MODEL, split_layers(MODEL.layers), WAVEFORMS, SVD(MODEL))
    assert by_matrix({"gru.weight_ih_l0": 12, "gru.weight_hh_l0": 12}) == ERROR({"gru": 12})


def test_bad_ranks():
    with pytest.raises(ValueError, match="no layer is named 'nowhere'"):
        ERROR({"nowhere": 1})
    with pytest.raises(ValueError, match="'output': rank must be"):
        ERROR({"output": 0})


def test_a_decoder_that_goes_on_for_longer_or_shorter():
    """Calls that one model does not make count as outputs of zero, those that the other makes besides not at all."""
    error = ActivationError(MODEL, MODEL.layers, WAVEFORMS, SVD(MODEL))
    recorded = error._original
    for utterance in recorded:
        utterance["output"].append(torch.ones(2, 2))
    energy = sum(float(call.square().sum()) for utterance in recorded for call in utterance["output"])
    missing = 2 * 4.0
    plain = ERROR({"output": 3})
    assert error({"output": 3}) == pytest.approx(math.sqrt((plain**2 * (energy - missing) + missing) / energy))


def test_the_evaluator_offers_it():
    evaluator = Evaluator(MODEL, UTTERANCES)
    spread = [utterance.waveform for utterance in UTTERANCES[:4]]
    expected = ActivationError(MODEL, MODEL.layers, spread, SVD(MODEL))({"output": 3})
    assert evaluator.activation_error({"output": 3}) == expected


def test_only_recent_errors_are_kept(monkeypatch):
    monkeypatch.setattr("shrinkml_env.evaluation.activations.KNOWN", 2)
    model = TinyCTC()
    error = ActivationError(model, model.layers, [tones(1)[0]], SVD(model))
    name = model.layers[0].name
    errors = [error({name: rank}) for rank in (1, 2, 3)]
    assert list(error._known) == [((name, 2),), ((name, 3),)]
    assert [error({name: rank}) for rank in (1, 2, 3)] == errors


class Packed(TinyCTC):
    """Feeds its GRU packed sequences; recognises the same."""

    def logits(self, waveform):
        gru, self.gru = self.gru, None
        try:
            self.__dict__["gru"] = lambda states: self._unpacked(gru, states)
            return super().logits(waveform)
        finally:
            del self.__dict__["gru"]
            self.gru = gru

    def _unpacked(self, gru, states):
        packed, hidden = gru(pack_padded_sequence(states, [states.shape[1]], batch_first=True))
        return pad_packed_sequence(packed, batch_first=True)[0], hidden


def test_packed_sequences():
    packed = Packed()
    error = ActivationError(packed, packed.layers, WAVEFORMS, SVD(packed))
    assert error({"front": 9, "gru": 12}) == pytest.approx(ERROR({"front": 9, "gru": 12}), rel=1e-5)


class Attending(nn.Module):
    """Attention of what is read to itself, after one linear layer."""

    storage_dtype = torch.float32

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.training_only, self.decoder_settings = (), {}
        self.front = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    @property
    def layers(self):
        return find_layers(self)

    def recognise(self, waveforms):
        for waveform in waveforms:
            states = self.front(waveform[:800].view(1, -1, 8))
            self.attention(states, states, states)


def test_the_projection_of_attention_is_heard_in_what_the_attention_gives():
    """The dense module multiplies by the projection without calling it."""
    model = Attending()
    error = ActivationError(model, split_layers(model.layers), WAVEFORMS, SVD(model))
    ranks = {"attention.out_proj.weight": 1}
    compressed = compress(model, ranks)
    found, expected = [], []
    for which, outputs in ((model, expected), (compressed, found)):
        which.attention.register_forward_hook(lambda _, __, output, outputs=outputs: outputs.append(output[0]))
        with torch.inference_mode():
            which.recognise(WAVEFORMS)
    found, expected = torch.cat(found, 1), torch.cat(expected, 1)
    assert error(ranks) == pytest.approx(((found - expected).norm() / expected.norm()).item(), rel=1e-5)
    assert error(ranks) > 0.1
