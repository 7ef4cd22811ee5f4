import copy
import pickle

import gymnasium as gym
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import shrinkml_env  # noqa: F401
from shrinkml_env import Evaluator, load_model, load_utterances
from shrinkml_env.asr import JointLAS
from shrinkml_env.asr.grouped import GroupedLAS
from shrinkml_env.asr.joint import JointEncoderLayer
from shrinkml_env.compression import (
    SVD,
    ActivationAwareSVD,
    CompressibleModel,
    Factors,
    StagedModel,
    compress,
    compressed_parameters,
    count_macs,
    count_parameters,
    decompress,
    load_compressed,
    matrix_ranks,
    optimise_for_inference,
    ranks_of,
    recognise_in_batches,
    save_compressed,
    second_moments,
)
from shrinkml_env.compression.compress import replace_matrices
from shrinkml_env.data import Utterance
from shrinkml_env.evaluation.stages import StagedRecogniser
from shrinkml_env.export.programs import require_las
from tests.helpers.las import MODEL, noise
from tests.helpers.models import TinyCTC, tones

JOINT = JointLAS.from_las(MODEL)
FACTORISATION = SVD(JOINT)
WAVEFORMS = tones(4)
ranks = st.fixed_dictionaries({}, optional={layer.name: st.integers(1, layer.max_rank) for layer in JOINT.layers})


def encoded(model, waveforms=WAVEFORMS):
    """The encoder's states behind each other, without padding."""
    with torch.inference_mode():
        states, lengths = model.encoder(*model.features(waveforms))
        return torch.cat([row[:length] for row, length in zip(states, lengths, strict=True)])


def test_is_a_staged_model():
    assert isinstance(JOINT, CompressibleModel)
    assert isinstance(JOINT, StagedModel)


def test_computes_what_the_las_model_does():
    torch.testing.assert_close(encoded(JOINT), encoded(MODEL), atol=1e-6, rtol=0)
    assert JOINT.recognise(WAVEFORMS) == MODEL.recognise(WAVEFORMS)
    assert count_parameters(JOINT) == count_parameters(MODEL)


def test_the_training_pass_is_the_same():
    features, lengths = MODEL.features(noise(9000, 7000))
    previous = torch.tensor([[1, 5, 6], [1, 8, 9]])
    for ours, theirs in zip(JOINT(features, lengths, previous), MODEL(features, lengths, previous), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_layers_in_forward_order():
    layers = {layer.name: layer for layer in JOINT.layers}
    assert list(layers) == [
        "encoder.0.inputs",
        "encoder.0",
        "encoder.1",
        "encoder.2.recurrent",
        "decoder.attention.query",
        "decoder.attention.key",
        "decoder.lstm",
        "decoder.readout",
        "decoder.output",
    ]
    # 8 units, 4 gates; a direction's states are read by itself and by both directions of the next layer.
    assert layers["encoder.0.inputs"].shapes == ((64, 80),)
    assert layers["encoder.1"].shapes == ((96, 8), (96, 8))
    assert layers["encoder.2.recurrent"].shapes == ((32, 8), (32, 8))
    assert {layer.kind for layer in JOINT.layers[:4]} == {"lstm"}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_equals_an_lstm_with_projections():
    """Where nothing stands between the layers, as nn.LSTM computes with proj_size; the last layer's outputs are V h."""
    torch.manual_seed(2)
    units, rank, size = 6, 3, 5
    layers = [
        JointEncoderLayer(size, units, time_reduction=1, last=False),
        JointEncoderLayer(None, units, time_reduction=1, last=True),
    ]
    theirs = torch.nn.LSTM(size, units, num_layers=2, bidirectional=True, proj_size=rank, batch_first=True)
    expected = dict(theirs.named_parameters())
    for index, layer in enumerate(layers):
        layer.norm = torch.nn.Identity()
        factors = {}
        for way, direction in enumerate(("forward", "backward")):
            u = [expected[f"weight_hh_l{index}{'_reverse' * way}"]]
            if index == 0:
                columns = slice(way * rank, (way + 1) * rank)
                u += [expected[f"weight_ih_l1{suffix}"][:, columns] for suffix in ("", "_reverse")]
            factors[f"weight_{direction}"] = Factors(torch.cat(u), expected[f"weight_hr_l{index}{'_reverse' * way}"])
        layers[index] = replace_matrices(layer, factors)
        with torch.no_grad():
            for bias in ("bias_ih", "bias_hh"):
                both = [expected[f"{bias}_l{index}{suffix}"] for suffix in ("", "_reverse")]
                getattr(layers[index], bias).copy_(torch.cat(both))
    with torch.no_grad():
        layers[0].weight_ih.copy_(torch.cat([expected[f"weight_ih_l0{suffix}"] for suffix in ("", "_reverse")]))
        inputs, lengths = torch.randn(2, 9, size), torch.tensor([9, 9])
        states, _ = layers[0](inputs, lengths)
        states, _ = layers[1](*_with_lengths(layers[0].read(states), lengths))
        ahead, behind = states.chunk(2, dim=2)
        ours = torch.cat([layers[1].project("weight_forward", ahead), layers[1].project("weight_backward", behind)], 2)
        torch.testing.assert_close(ours, theirs(inputs)[0], atol=1e-6, rtol=0)


def _with_lengths(read, lengths):
    inputs, weight_ih = read
    return inputs, lengths, weight_ih


def test_full_rank_is_dense():
    model = copy.deepcopy(JOINT)
    model.storage_dtype = torch.float32
    exact = SVD(model)
    full = {
        matrix.name: exact.factors(matrix.name, matrix.max_rank) for layer in model.layers for matrix in layer.matrices
    }
    torch.testing.assert_close(encoded(replace_matrices(model, full)), encoded(JOINT), atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=10)
@given(configuration=ranks)
def test_what_is_compressed(configuration):
    """Counts, computes the products, and comes back from its file."""
    compressed = compress(JOINT, configuration, FACTORISATION)
    assert ranks_of(compressed) == matrix_ranks(JOINT.layers, configuration)
    assert compressed.layers == JOINT.layers
    assert count_parameters(compressed) == compressed_parameters(JOINT, configuration)
    torch.testing.assert_close(encoded(decompress(compressed)), encoded(compressed), atol=1e-5, rtol=0)


def test_one_direction_alone():
    compressed = compress(JOINT, {"encoder.layers.1.weight_backward": 2})
    assert ranks_of(compressed) == {"encoder.layers.1.weight_backward": 2}
    torch.testing.assert_close(encoded(decompress(compressed)), encoded(compressed), atol=1e-5, rtol=0)


def test_saved_and_loaded(tmp_path):
    for model in (JOINT, compress(JOINT, {"encoder.0.inputs": 5, "encoder.1": 3, "encoder.2.recurrent": 2})):
        save_compressed(model, tmp_path / "model")
        loaded = load_compressed(tmp_path / "model")
        assert type(loaded) is JointLAS
        assert ranks_of(loaded) == ranks_of(model)
        assert loaded.recognise(WAVEFORMS) == model.recognise(WAVEFORMS)


def test_copies():
    compressed = compress(JOINT, {"encoder.0": 3})
    for other in (copy.deepcopy(compressed), pickle.loads(pickle.dumps(compressed))):
        assert torch.equal(encoded(other), encoded(compressed))


def test_optimised_for_inference():
    compressed = compress(JOINT, {"encoder.0": 3, "decoder.readout": 4})
    expected = compressed.recognise(WAVEFORMS)
    found = optimise_for_inference(compressed, WAVEFORMS)
    assert found["encoder.layers.0"] == "factored"
    assert compressed.recognise(WAVEFORMS) == expected


def test_a_changed_factor_counts():
    """Products of the recurrent matrix are kept between calls."""
    compressed = copy.deepcopy(compress(JOINT, {"encoder.2.recurrent": 3}))
    before = encoded(compressed)
    with torch.no_grad():
        compressed.encoder.layers[2].weight_forward_v.zero_()
    assert not torch.allclose(encoded(compressed), before, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("memory", [0, 20_000, 2**28])
@settings(deadline=None, max_examples=8)
@given(configurations=st.lists(ranks, min_size=1, max_size=4))
def test_sharing_changes_no_transcript(memory, configurations):
    recognise = StagedRecogniser(JOINT, JOINT.layers, WAVEFORMS, memory)
    for configuration in [*configurations, *configurations]:
        compressed = compress(JOINT, configuration, FACTORISATION)
        expected = recognise_in_batches(compressed, WAVEFORMS)
        assert recognise(compressed, matrix_ranks(JOINT.layers, configuration)) == expected


def test_every_encoder_layer_has_a_stage():
    assert JOINT.stages == (("encoder.0.inputs", "encoder.0"), ("encoder.1",), ("encoder.2.recurrent",))


@settings(deadline=None, max_examples=6, derandomize=True)
@given(configurations=st.lists(ranks, min_size=1, max_size=3))
def test_side_by_side(configurations):
    forms = [compress(JOINT, configuration, FACTORISATION) for configuration in configurations]
    assert GroupedLAS(forms).recognise(WAVEFORMS) == [form.recognise(WAVEFORMS) for form in forms]


def test_gradients_reach_both_factors():
    model = copy.deepcopy(compress(JOINT, {"encoder.0": 3}))
    features, lengths = model.features(noise(9000))
    model(features, lengths, torch.tensor([[1, 5, 6]]))[0].square().sum().backward()
    layer = model.encoder.layers[0]
    # The rows of W_hh and those that the next layer reads with.
    assert layer.weight_backward_u.grad[:32].abs().max() > 0
    assert layer.weight_backward_u.grad[32:].abs().max() > 0
    assert layer.weight_backward_v.grad.abs().max() > 0


def test_calibration_sees_states_and_outputs():
    """In the plain model: what the LSTM returns, a step before; and what the layer returns."""
    seen = {}

    def keep(name):
        def hook(_module, _inputs, output):
            seen[name] = output[0][0]

        return hook

    layer = MODEL.encoder.layers[0]
    handles = [layer.lstm.register_forward_hook(lambda _m, _i, output: seen.update(states=output[0]))]
    handles.append(layer.register_forward_hook(keep("outputs")))
    features, _ = MODEL.features(WAVEFORMS[:1])
    try:
        MODEL.recognise(WAVEFORMS[:1])
    finally:
        for handle in handles:
            handle.remove()
    found = second_moments(JOINT, WAVEFORMS[:1])
    assert set(found) == {matrix.name for layer in JOINT.layers for matrix in layer.matrices}
    zeros = torch.zeros(1, 8)
    ahead = torch.cat([zeros, seen["states"][:-1, :8], seen["outputs"][:, :8]]).double()
    behind = torch.cat([zeros, seen["states"][1:, 8:], seen["outputs"][:, 8:]]).double()
    for name, vectors in (("forward", ahead), ("backward", behind)):
        expected = vectors.T @ vectors / len(vectors)
        torch.testing.assert_close(found[f"encoder.layers.0.weight_{name}"], expected, atol=1e-6, rtol=1e-5)
    expected = features[0].double().T @ features[0].double() / features.shape[1]
    torch.testing.assert_close(found["encoder.layers.0.weight_ih"], expected, atol=1e-6, rtol=1e-5)
    # Nothing reads the last layer's outputs but the decoder: its states alone, of which each has 8 numbers.
    assert found["encoder.layers.2.weight_forward"].diagonal().max() < 1


def test_activation_aware():
    found = ActivationAwareSVD(JOINT, WAVEFORMS)
    compressed = compress(JOINT, {"encoder.0": 4}, found)
    assert not torch.equal(encoded(compressed), encoded(compress(JOINT, {"encoder.0": 4})))


def test_multiply_adds():
    # 102 frames, then 34, then 17.
    samples, text = 16_160, "jazz"
    ours, theirs = (model.workload([samples], [text]) for model in (JOINT, MODEL))
    assert JOINT.config.encoder_lengths(102) == [102, 34, 17, 17]
    rest = dict.fromkeys(("decoder.lstm", "decoder.output"), 1)
    dense = count_macs(JOINT.layers, {}, ours)
    # Whole positions: below one for each matrix, of at most 12 * 8 * 8 multiply-adds.
    assert 0 <= count_macs(MODEL.layers, {}, theirs) - dense < 4 * 96 * 8
    rank = 3
    for name, times in (("encoder.0", (102, 34)), ("encoder.1", (34, 17))):
        # Each direction: V and 32 rows for every state, V and 64 rows for every output.
        factored = 2 * (times[0] * rank * (8 + 32) + times[1] * rank * (8 + 64))
        saved = 2 * (times[0] * 32 * 8 + times[1] * 64 * 8) - factored
        assert abs(dense - count_macs(JOINT.layers, {name: rank}, ours) - saved) < 2 * 2 * 96 * 8
    assert count_macs(JOINT.layers, rest, ours) - dense == count_macs(MODEL.layers, rest, theirs) - count_macs(
        MODEL.layers, {}, theirs
    )


def test_evaluator():
    utterances = [Utterance(str(index), "a", waveform, "call martin") for index, waveform in enumerate(WAVEFORMS)]
    evaluator = Evaluator(JOINT, utterances)
    plain = Evaluator(MODEL, utterances)
    assert evaluator.baseline.edits == plain.baseline.edits
    assert evaluator.key != plain.key
    configuration = {"encoder.0.inputs": 4, "encoder.0": 2, "encoder.2.recurrent": 1}
    assert evaluator.evaluate(configuration).params == count_parameters(compress(JOINT, configuration))
    assert evaluator.activation_error(configuration) > 0


@pytest.mark.slow
def test_by_name(tmp_path):
    """Of a shipped model, of a folder, and in an environment."""
    joint, plain = load_model("joint:las_small"), load_model("las_small")
    waveforms = [utterance.waveform for utterance in load_utterances("dev")[:12]]
    assert joint.transcribe(waveforms) == plain.transcribe(waveforms)
    assert joint.storage_dtype == torch.float16
    save_compressed(MODEL, tmp_path / "model")
    assert torch.equal(encoded(load_model(f"joint:{tmp_path / 'model'}")), encoded(JOINT))
    env = gym.make("ShrinkML-v0", model="joint:las_small", proxy=load_utterances("dev")[:2])
    env.reset(seed=0)
    *_, info = env.step(env.action_space.sample())
    assert info["layer"] == "encoder.0.inputs"


def test_what_cannot_be_re_arranged(tmp_path):
    with pytest.raises(ValueError, match=r"architecture 'las', this is 'tiny_ctc'"):
        JointLAS.from_las(TinyCTC())
    with pytest.raises(ValueError, match="this is 'las_joint'"):
        load_model("joint:joint:las_small")
    save_compressed(compress(MODEL, {"encoder.1": 2}), tmp_path / "small")
    with pytest.raises(ValueError, match="compressed already"):
        load_model(f"joint:{tmp_path / 'small'}")


def test_cannot_be_exported():
    with pytest.raises(ValueError, match="this is 'las_joint': use the format safetensors"):
        require_las(JOINT)
