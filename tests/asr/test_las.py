import copy
import json
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkml_env.asr import LAS, Decoding, LASConfig
from shrinkml_env.asr.las_modules import BidirectionalLSTM
from shrinkml_env.compression import (
    ActivationAwareSVD,
    CompressibleModel,
    compress,
    count_parameters,
    load_compressed,
    save_compressed,
    second_moments,
)
from tests.helpers.las import MODEL, make_model, noise


def test_is_a_compressible_model():
    assert isinstance(make_model(), CompressibleModel)


def test_layers_in_forward_order():
    names = [layer.name for layer in make_model().layers]
    assert names == [
        "encoder.0",
        "encoder.1",
        "encoder.2",
        "decoder.attention.query",
        "decoder.attention.key",
        "decoder.lstm",
        "decoder.readout",
        "decoder.output",
    ]


def test_an_encoder_layer_holds_both_directions():
    layer = make_model().layers[1]
    # 4 gates x 8 units; inputs are both directions of the layer below.
    assert layer.shapes == ((32, 16), (32, 8), (32, 16), (32, 8))
    assert layer.break_even == (32 * 16 - 1) // (32 + 16)


def test_parameters_without_the_ctc_head():
    # Worked out by hand: LSTM 4u(i + u) + 8u for each direction, LayerNorm 2 x 16.
    first = 2 * (4 * 8 * (80 + 8) + 64) + 32
    other = 2 * (4 * 8 * (16 + 8) + 64) + 32
    attention = 10 * 8 + (16 * 8 + 8) + 8 * 31 + 8
    decoder = 60 * 6 + 4 * 10 * (6 + 16 + 10) + 80 + (26 * 9 + 9) + (9 * 60 + 60)
    assert count_parameters(make_model()) == first + 2 * other + attention + decoder


def test_bidirectional_lstm_equals_torchs_on_packed_sequences():
    torch.manual_seed(3)
    ours = BidirectionalLSTM(5, 7)
    theirs = torch.nn.LSTM(5, 7, batch_first=True, bidirectional=True)
    for name, parameter in ours.forward_lstm.named_parameters():
        getattr(theirs, name).data.copy_(parameter)
    for name, parameter in ours.backward_lstm.named_parameters():
        getattr(theirs, f"{name}_reverse").data.copy_(parameter)
    inputs, lengths = torch.randn(3, 11, 5), torch.tensor([11, 4, 7])
    packed = torch.nn.utils.rnn.pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)
    outputs = ours(inputs, lengths)
    for row, length in enumerate(lengths):
        assert torch.allclose(outputs[row, :length], expected[row, :length], atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(800, 12_000), min_size=2, max_size=5), st.integers(0, 99))
def test_batching_changes_no_logits(sizes, seed):
    model = MODEL
    waveforms = noise(*sizes, seed=seed)
    with torch.inference_mode():
        features, lengths = model.features(waveforms)
        encoded, reduced = model.encoder(features, lengths)
        logits, _ = model.decoder.step(model.decoder.start(encoded, reduced), torch.full((len(sizes),), 1))
        for row, waveform in enumerate(waveforms):
            alone, length = model.encoder(*model.features([waveform]))
            assert length.item() == reduced[row] == model.config.encoder_lengths(int(lengths[row]))[-1]
            assert torch.allclose(alone[0], encoded[row, : length.item()], atol=1e-5)
            single, _ = model.decoder.step(model.decoder.start(alone, length), torch.ones(1, dtype=torch.long))
            assert torch.allclose(single[0], logits[row], atol=1e-5)


def test_transcribes_any_number_and_keeps_the_order():
    waveforms = noise(9000, 3000, 6000)
    together = MODEL.transcribe(waveforms)
    assert together == [MODEL.transcribe([waveform])[0] for waveform in waveforms]
    assert MODEL.transcribe([]) == []
    assert MODEL.transcribe([waveform.double().numpy()[None] for waveform in waveforms]) == together
    with pytest.raises(ValueError, match=r"transcribe takes a list of waveforms, .* got one float32 of shape"):
        MODEL.transcribe(waveforms[0])
    with pytest.raises(ValueError, match="waveform 1: holds samples that are NaN"):
        MODEL.transcribe([waveforms[0], torch.nan * waveforms[1]])


def test_token_limit_depends_on_the_utterance_alone():
    settings_ = Decoding(tokens_per_second=8, tokens_base=8)
    assert settings_.token_limit(16_000) == 16
    assert settings_.token_limit(16_001) == 17
    model = make_model(tokens_per_second=0.001, tokens_base=2)
    # A random model does not stop by itself.
    assert all(hypothesis.capped for hypothesis in model.recognise(noise(4000, 8000)))


def test_a_beam_of_one_and_greedy_agree_and_wider_beams_score_no_worse():
    waveforms = noise(5000, 9000, 7000, seed=5)
    model = make_model(tokens_per_second=4, tokens_base=2, length_penalty=0.0)

    def score(text_tokens, waveform):
        """Log-probability of a token sequence, one utterance at a time."""
        with torch.inference_mode():
            state = model.decoder.start(*model.encoder(*model.features([waveform])))
            previous, total = torch.tensor([model.tokenizer.eos]), 0.0
            for token in text_tokens:
                logits, state = model.decoder.step(state, previous)
                total += float(logits.log_softmax(1)[0, token])
                previous = torch.tensor([token])
        return total

    from shrinkml_env.asr import decoding

    limits = torch.tensor([model.decoding.token_limit(waveform.numel()) for waveform in waveforms])
    with torch.inference_mode():
        encoded, lengths = model.encoder(*model.features(waveforms))
        start = model.decoder.start(encoded, lengths)
        greedy = decoding.greedy_search(model.decoder.step, start, limits, model.tokenizer.eos, model.decoding)
        beams = {
            beam: decoding.beam_search(
                model.decoder.step, start, limits, model.tokenizer.eos, Decoding(beam_size=beam, length_penalty=0.0)
            )
            for beam in (1, 6)
        }
    assert beams[1] == greedy
    for row, waveform in enumerate(waveforms):
        ended = [
            tokens if capped else [*tokens, model.tokenizer.eos] for tokens, capped in (beams[6][row], greedy[row])
        ]
        assert score(ended[0], waveform) >= score(ended[1], waveform) - 1e-4


def test_beam_search_does_not_depend_on_the_batch():
    model = make_model(beam_size=3)
    waveforms = noise(5000, 9000, 7000, seed=6)
    assert model.transcribe(waveforms) == [model.transcribe([waveform])[0] for waveform in waveforms]


def test_workload():
    model = MODEL
    workload = model.workload([16_000, 8_000], ["call martin", "jazz"])
    # 101 and 51 frames; a third, then half of that, rounded up.
    frames = [(101, 34, 17), (51, 17, 9)]
    units = [len(model.tokenizer.encode(text)) + 1 for text in ("call martin", "jazz")]
    for index in range(3):
        expected = frames[0][index] + frames[1][index]
        assert workload.positions[f"encoder.layers.{index}.lstm.forward_lstm.weight_hh_l0"] == expected
        assert workload.positions[f"encoder.layers.{index}.lstm.backward_lstm.weight_ih_l0"] == expected
    assert workload.positions["decoder.attention.key.weight"] == 17 + 9
    assert workload.positions["decoder.output.weight"] == sum(units)
    # Each step sees every frame: 8 units x 31 taps, 8 for the energy, 16 for the context.
    assert workload.other_macs == (17 * units[0] + 9 * units[1]) * (8 * 31 + 8 + 16)


def test_saved_and_loaded(tmp_path):
    waveforms = noise(9000, 3000)
    compressed = compress(MODEL, {"encoder.1": 3, "decoder.lstm": 2})
    for model in (MODEL, compressed):
        save_compressed(model, tmp_path / "model")
        loaded = load_compressed(tmp_path / "model")
        assert loaded.transcribe(waveforms) == model.transcribe(waveforms)
        assert count_parameters(loaded) == count_parameters(model)


def test_config_is_json_and_the_model_copies():
    config = json.loads(json.dumps(MODEL.to_config()))
    assert LAS.from_config(config).to_config() == MODEL.to_config()
    waveforms = noise(4000)
    for other in (copy.deepcopy(MODEL), pickle.loads(pickle.dumps(MODEL))):
        assert other.transcribe(waveforms) == MODEL.transcribe(waveforms)


def test_training_pass_predicts_what_decoding_steps_do():
    features, lengths = MODEL.features(noise(9000, 7000))
    targets = torch.tensor([[5, 6, 7], [8, 9, MODEL.tokenizer.eos]])
    with torch.inference_mode():
        previous = torch.nn.functional.pad(targets, (1, 0), value=MODEL.tokenizer.eos)
        logits, states, times = MODEL(features, lengths, previous)
        assert logits.shape == (2, 4, 60)
        heard = features, lengths
        for index, found in enumerate(zip(states, times, strict=True)):
            heard = MODEL.encoder.advance(index, *heard)
            assert all(map(torch.equal, found, heard))
        state = MODEL.decoder.start(states[-1], times[-1])
        for position, previous in enumerate(torch.tensor([[1, 1], [5, 8], [6, 9]])):
            step, state = MODEL.decoder.step(state, previous)
            assert torch.allclose(step, logits[:, position], atol=1e-6)


def test_predictions_are_those_of_decoding_whatever_the_batch():
    """Told what it writes greedily, the model finds each of these subwords and the end the most probable."""
    waveforms = noise(9000, 4000, 14_000)
    texts = MODEL.transcribe(waveforms)

    def predict(numbers):
        batch = [waveforms[number] for number in numbers]
        with torch.inference_mode():
            state = MODEL.begin(batch)
            for stage in range(len(MODEL.stages)):
                state = MODEL.advance(stage, state)
            return MODEL.predict(batch, state, [texts[number] for number in numbers])

    together = predict([0, 1, 2])
    for number, (found, text) in enumerate(zip(together, texts, strict=True)):
        units = MODEL.tokenizer.encode(text)
        assert found.shape == (len(units) + 1, 60)
        assert torch.allclose(found.exp().sum(1), torch.ones(len(found)))
        assert torch.allclose(found, predict([number])[0], atol=1e-5)


def test_beam_size_is_checked():
    with pytest.raises(ValueError, match="beam_size"):
        Decoding(beam_size=0)


@pytest.mark.slow
def test_unpickles_in_a_fresh_process(tmp_path):
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(MODEL))
    code = f"import pickle; print(type(pickle.load(open({str(tmp_path / 'model.pickle')!r}, 'rb'))).__name__)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "LAS\n"


def test_calibration_sees_every_matrix():
    """And recognises as before; a matrix that was not seen would be warned about."""
    model = make_model(beam_size=2)
    before = model.transcribe(noise(16_000, 9_000))
    found = ActivationAwareSVD(model, noise(16_000, 9_000))
    names = {matrix.name for layer in model.layers for matrix in layer.matrices}
    assert set(second_moments(model, noise(16_000, 9_000))) == set(found.singular_values) == names
    assert model.transcribe(noise(16_000, 9_000)) == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"location_width": 30},
        {"encoder_units": 0},
        {"time_reduction": ()},
        {"time_reduction": (3, 0)},
        {"dropout": 1.5},
    ],
)
def test_sizes_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LASConfig(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"beam_size": 0}, {"tokens_base": -100}, {"tokens_per_second": -1.0}, {"length_penalty": float("nan")}]
)
def test_settings_of_the_decoder_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        Decoding(**wrong)
