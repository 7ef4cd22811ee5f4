"""The adapter to torchaudio's pipelines, on a tiny model with random weights."""

import copy
import pickle

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from shrinkml_env import CompressibleModel, compress, count_parameters, encoder_parameters, load_model, save_compressed
from shrinkml_env.asr import TorchaudioCTC
from shrinkml_env.compression import ActivationAwareSVD, count_macs, load_compressed, ranks_of, second_moments
from shrinkml_env.data.torchaudio_compat import import_torchaudio
from tests.helpers.models import tones

PARAMS = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": [(12, 10, 5), (14, 3, 4), (16, 3, 4)],
    "extractor_conv_bias": False,
    "encoder_embed_dim": 16,
    "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 6,
    "encoder_pos_conv_groups": 2,
    "encoder_num_layers": 2,
    "encoder_num_heads": 2,
    "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_features": 40,
    "encoder_ff_interm_dropout": 0.0,
    "encoder_dropout": 0.1,
    "encoder_layer_norm_first": False,
    "encoder_layer_drop": 0.05,
    "aux_num_out": 29,
}
RANKS = {"feature_extractor.conv_layers.1.conv": 4, "encoder.transformer.layers.1.attention": 3, "aux": 5}


@pytest.fixture(params=[False, True], ids=["as it is", "normalised"])
def pipeline(request, tmp_path, monkeypatch):
    """A pipeline like those that torchaudio ships, whose weights lie where torch keeps what it has fetched."""
    torchaudio = import_torchaudio()
    torch.manual_seed(0)
    network = torchaudio.models.wav2vec2_model(**{**PARAMS, "aux_num_out": 32}).eval()
    network.aux.weight.data.mul_(20)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(network.state_dict(), tmp_path / "hub" / "checkpoints" / "tiny.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    bundle = torchaudio.pipelines.Wav2Vec2ASRBundle(
        "tiny.pth",
        PARAMS,
        _sample_rate=16_000,
        _normalize_waveform=request.param,
        _model_type="Wav2Vec2",
        _labels=torchaudio.pipelines.WAV2VEC2_ASR_BASE_960H.get_labels()[1:],
    )
    monkeypatch.setattr(torchaudio.pipelines, "TINY_ASR", bundle, raising=False)
    return bundle


def test_transcripts_are_those_of_the_pipeline(pipeline):
    network, labels = pipeline.get_model(), pipeline.get_labels()
    expected = []
    for waveform in tones(4):
        with torch.no_grad():
            units = network(waveform[None])[0][0].argmax(1).tolist()
        text = "".join(labels[unit] for unit, last in zip(units, [0, *units], strict=False) if unit not in (0, last))
        expected.append(text.replace("|", " ").strip())
    model = load_model("torchaudio:TINY_ASR")
    assert isinstance(model, CompressibleModel)
    assert not model.training
    assert model.transcribe(tones(4)) == expected
    assert len(set(expected)) == 4
    for other in copy.deepcopy(model), pickle.loads(pickle.dumps(model)):
        assert other.transcribe(tones(4)) == expected


def test_compressed_and_saved(pipeline, tmp_path):
    model = load_model("torchaudio:TINY_ASR")
    assert [layer.name for layer in model.layers if len(layer.matrices) == 4] == [
        f"encoder.transformer.layers.{index}.attention" for index in range(2)
    ]
    small = compress(model, RANKS)
    assert encoder_parameters(small) < encoder_parameters(model) < count_parameters(model)
    save_compressed(small, tmp_path / "small")
    loaded = load_compressed(tmp_path / "small")
    assert isinstance(loaded, TorchaudioCTC)
    assert ranks_of(loaded) == ranks_of(small)
    assert loaded.to_config() == small.to_config()
    assert loaded.transcribe(tones(4)) == small.transcribe(tones(4)) != model.transcribe(tones(4))


@pytest.mark.parametrize("ranks", [{}, RANKS])
def test_multiply_adds_by_hand_and_by_torch(ranks):
    torch.manual_seed(0)
    model = TorchaudioCTC(PARAMS, ["-", "|", *"abcdefghijklmnopqrstuvwxyz'"]).eval()
    (waveform,) = tones(1)
    workload = model.workload([len(waveform)], [""])
    # 8000 samples: (8000 - 10) // 5 + 1 = 1599, (1599 - 3) // 4 + 1 = 400, 100 frames. Attention, which torch does not
    # count in its fused kernels: scores and weighted sums in two layers.
    attention = 2 * (2 * 100 * 100 * 16)
    smaller = compress(model, ranks)
    with FlopCounterMode(display=False) as counter:
        smaller.recognise([waveform])
    assert 2 * (count_macs(model.layers, ranks, workload) - attention) == counter.get_total_flops()
    if not ranks:
        front = 1599 * 12 * 10 + 400 * 14 * 36 + 100 * 16 * 42
        encoder = 100 * (16 * 16 + 2 * (4 * 16 * 16 + 2 * 16 * 40)) + 101 * 16 * 8 * 6
        assert count_macs(model.layers, {}, workload) == front + encoder + attention + 100 * 16 * 29


@pytest.mark.parametrize("name", ["WAV2VEC2_BASE", "EMFORMER_RNNT_BASE_LIBRISPEECH", "MMS_FA", "nothing"])
def test_other_pipelines(name):
    with pytest.raises(ValueError, match=rf"torchaudio:{name}: there is an adapter for .*WAV2VEC2_ASR_BASE_960H"):
        load_model(f"torchaudio:{name}")


def test_calibration_sees_every_matrix(pipeline):
    """And recognises as before; a matrix that was not seen would be warned about."""
    model = load_model("torchaudio:TINY_ASR")
    before = model.transcribe(tones(2))
    found = ActivationAwareSVD(model, tones(2))
    names = {matrix.name for layer in model.layers for matrix in layer.matrices}
    assert set(second_moments(model, tones(2))) == set(found.singular_values) == names
    assert model.transcribe(tones(2)) == before


def test_too_short_for_the_model(pipeline):
    model = load_model("torchaudio:TINY_ASR")
    assert model.shortest == 60  # (1 - 1) * 4 + 3 = 3, (3 - 1) * 4 + 3 = 11, (11 - 1) * 5 + 10 = 60
    assert len(model.transcribe([torch.ones(60)])) == 1
    with pytest.raises(ValueError, match="59 samples are too few for the model, which needs 60"):
        model.transcribe([torch.ones(59)])
    assert min(model.workload([59], ["a"]).positions.values()) == 0
