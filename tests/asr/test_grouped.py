import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkml_env import compress, load_model, load_utterances
from shrinkml_env.asr.grouped import GroupedLAS
from shrinkml_env.compression import SVD
from tests.helpers.las import MODEL, make_model
from tests.helpers.models import tones
from tests.helpers.near_ties import margin, units_of

WAVEFORMS = tones(4)
ranks = st.fixed_dictionaries({}, optional={layer.name: st.integers(1, layer.max_rank) for layer in MODEL.layers})


@settings(deadline=None, max_examples=10, derandomize=True)
@given(configurations=st.lists(ranks, min_size=1, max_size=3))
def test_each_form_recognises_what_it_does_alone(configurations):
    forms = [compress(MODEL, configuration) for configuration in configurations]
    expected = [form.recognise(WAVEFORMS) for form in forms]
    found = GroupedLAS(forms).recognise(WAVEFORMS)
    assert [[h.capped for h in of_form] for of_form in found] == [[h.capped for h in of_form] for of_form in expected]
    assert found == expected


@pytest.mark.slow
def test_the_embedded_model():
    model = load_model("las_small")
    waveforms = [utterance.waveform for utterance in load_utterances("dev")[:12]]
    generator = torch.Generator().manual_seed(0)
    configurations = [{}]
    for _ in range(5):
        parts = 0.3 + 0.7 * torch.rand(len(model.layers), generator=generator)
        configurations.append(
            {layer.name: round(float(part) * layer.break_even) for layer, part in zip(model.layers, parts, strict=True)}
        )
    factorisation = SVD(model)
    forms = [compress(model, configuration, factorisation) for configuration in configurations]
    for form, found in zip(forms, GroupedLAS(forms).spell(waveforms), strict=True):
        for waveform, (units, _), expected in zip(waveforms, found, units_of(form, waveforms), strict=True):
            assert units == expected or margin(form, waveform, units, expected) <= 1e-4


def test_what_it_cannot_do():
    with pytest.raises(ValueError, match="at least one form"):
        GroupedLAS([])
    with pytest.raises(ValueError, match="greedy search only"):
        GroupedLAS([make_model(beam_size=2)])
