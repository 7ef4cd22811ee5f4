import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkml_env import compress
from shrinkml_env.compression import SVD, StagedModel, matrix_ranks, recognise_in_batches
from shrinkml_env.evaluation.stages import StageCache, StagedRecogniser
from tests.helpers.las import MODEL
from tests.helpers.models import TinyCTC, tones

WAVEFORMS = tones(5)
FACTORISATION = SVD(MODEL)
ranks = st.fixed_dictionaries({}, optional={layer.name: st.integers(1, layer.max_rank) for layer in MODEL.layers})


def state(numbers):
    return (torch.zeros(numbers, dtype=torch.float32),)


def test_which_models_have_stages():
    assert isinstance(MODEL, StagedModel)
    assert not isinstance(TinyCTC(), StagedModel)


@pytest.mark.slow
@pytest.mark.parametrize("memory", [0, 20_000, 2**28])
@settings(deadline=None, max_examples=8)
@given(configurations=st.lists(ranks, min_size=1, max_size=4))
def test_sharing_changes_no_transcript(memory, configurations):
    """Whatever was recognised before, and whether there was room to keep it."""
    recognise = StagedRecogniser(MODEL, MODEL.layers, WAVEFORMS, memory)
    for configuration in [*configurations, *configurations]:
        compressed = compress(MODEL, configuration, FACTORISATION)
        expected = recognise_in_batches(compressed, WAVEFORMS)
        assert recognise(compressed, matrix_ranks(MODEL.layers, configuration)) == expected
        assert recognise.cache.bytes <= memory


def test_what_is_shared_is_not_computed_again():
    class Counting(type(MODEL)):
        def advance(self, stage, state):
            advanced.append(stage)
            return super().advance(stage, state)

    advanced: list[int] = []
    model = Counting(MODEL.config, MODEL.tokenizer, MODEL.decoding)
    model.load_state_dict(MODEL.state_dict())
    model.eval()
    recognise = StagedRecogniser(model, model.layers, WAVEFORMS, 2**28)
    first, second, *_ = (layer for layer in model.layers if layer.name.startswith("encoder"))
    stages = list(range(len(model.stages)))
    for configuration, expected in [
        ({}, stages),
        ({}, []),
        ({second.name: 1}, stages[1:]),
        ({second.name: 1, "decoder.lstm": 1}, []),
        ({first.name: 1}, stages),
    ]:
        advanced.clear()
        recognise(compress(model, configuration), matrix_ranks(model.layers, configuration))
        assert advanced == expected, configuration


def test_features_are_kept_where_there_is_room():
    class Counting(type(MODEL)):
        begun = 0

        def begin(self, waveforms):
            Counting.begun += 1
            return super().begin(waveforms)

    model = Counting(MODEL.config, MODEL.tokenizer, MODEL.decoding)
    model.load_state_dict(MODEL.state_dict())
    model.eval()
    first = model.stages[0][0]
    for memory, times in [(2**28, 1), (0, 2)]:
        Counting.begun = 0
        recognise = StagedRecogniser(model, model.layers, WAVEFORMS, memory)
        for rank in (1, 2):
            recognise(compress(model, {first: rank}), matrix_ranks(model.layers, {first: rank}))
        assert Counting.begun == times  # five waveforms are one batch
    assert len(recognise.cache) == 0


def test_what_saves_most_for_its_size_stays():
    cache = StageCache(limit=400)
    cache.put("slow", state(40), seconds=10.0)  # 160 bytes
    cache.put("fast", state(40), seconds=1.0)
    cache.put("new", state(40), seconds=2.0)
    assert cache.get("fast") is None
    assert cache.get("slow") is not None
    assert cache.bytes == 320
    cache.put("huge", state(101), seconds=1000.0)  # does not fit at all
    assert cache.get("huge") is None
    assert len(cache) == 2


def test_use_counts():
    cache = StageCache(limit=320)
    cache.put("used", state(40), seconds=1.0)
    cache.put("unused", state(40), seconds=1.5)
    assert cache.get("used") is not None
    cache.put("new", state(40), seconds=1.0)
    assert cache.get("unused") is None
    assert cache.get("used") is not None


def test_old_entries_give_way_in_time():
    cache = StageCache(limit=160)
    cache.put("old", state(40), seconds=5.0)
    for number in range(10):
        cache.put(number, state(40), seconds=1.0)
    assert cache.get("old") is None


def test_negative_limit():
    with pytest.raises(ValueError, match="at least 0 bytes"):
        StageCache(-1)
