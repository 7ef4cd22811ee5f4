import copy
import hashlib
import json
import pickle
from contextlib import contextmanager

import jiwer
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkml_env import Utterance, compress, count_parameters, load_compressed, save_compressed
from shrinkml_env.compression import SVD, compressed_parameters, in_batches, inference_tensors, matrix_ranks
from shrinkml_env.evaluation import EvaluationCache, Evaluator, recognise_all
from shrinkml_env.evaluation.divergence import DivergenceMeasurer
from shrinkml_env.evaluation.measurer import Measurer
from shrinkml_env.evaluation.side_by_side import SideBySideMeasurer
from shrinkml_env.evaluation.wer import count_errors
from tests.helpers.las import make_model
from tests.helpers.models import TinyCTC, half_recognised, tones
from tests.helpers.processes import python

MODEL = TinyCTC()


UTTERANCES = half_recognised(MODEL)
EVALUATOR = Evaluator(MODEL, UTTERANCES)


def choices(evaluator=EVALUATOR):
    return st.fixed_dictionaries(
        {}, optional={layer.name: st.integers(1, layer.max_rank) for layer in evaluator.layers}
    )


@settings(max_examples=20, deadline=None)
@given(choices())
def test_measures_what_compress_makes(ranks):
    evaluation = EVALUATOR.evaluate(ranks)
    model = compress(MODEL, ranks)
    hypotheses = model.transcribe([utterance.waveform for utterance in UTTERANCES])
    assert evaluation.wer == pytest.approx(jiwer.wer([u.text for u in UTTERANCES], hypotheses))
    assert evaluation.params == count_parameters(model)
    assert evaluation.size_ratio == count_parameters(model) / count_parameters(MODEL)
    assert list(evaluation.ranks) == [layer.name for layer in MODEL.layers]


def test_the_original():
    baseline = EVALUATOR.baseline
    assert baseline.size_ratio == 1
    assert baseline.ranks == {layer.name: layer.max_rank for layer in MODEL.layers}
    assert 0 < baseline.wer < 1
    # Every matrix is applied once a frame of the convolution's output.
    positions = sum((MODEL.frames(u.waveform.numel()) + 1) // 2 for u in UTTERANCES)
    assert baseline.macs == positions * sum(m * n for layer in MODEL.layers for m, n in layer.shapes)


def test_multiply_adds_of_one_factored_layer():
    layer = next(layer for layer in MODEL.layers if layer.name == "hidden")
    ((rows, columns),) = layer.shapes
    positions = sum((MODEL.frames(u.waveform.numel()) + 1) // 2 for u in UTTERANCES)
    saved = positions * (rows * columns - 2 * (rows + columns))
    assert EVALUATOR.evaluate({"hidden": 2}).macs == EVALUATOR.baseline.macs - saved


def test_ranks_above_break_even_are_the_original():
    above = {layer.name: layer.break_even + 1 for layer in MODEL.layers}
    assert EVALUATOR.evaluate(above) == EVALUATOR.baseline


def test_order_of_the_utterances_and_copies_change_nothing():
    ranks = {"gru": 4, "hidden": 3}
    expected = EVALUATOR.evaluate(ranks)
    backwards = Evaluator(MODEL, UTTERANCES[::-1]).evaluate(ranks)
    assert backwards.edits == expected.edits[::-1]
    for other in (copy.deepcopy(EVALUATOR), pickle.loads(pickle.dumps(EVALUATOR))):
        assert other.evaluate(ranks) == expected


@settings(max_examples=10)
@given(
    st.fixed_dictionaries({}, optional={layer.name: st.integers(1, layer.max_rank) for layer in MODEL.layers}),
    st.sampled_from(["factors", "pivoting"]),
)
def test_the_saved_model_is_the_one_that_was_evaluated(tmp_path_factory, ranks, form):
    factorisation, folder = SVD(MODEL, form=form), tmp_path_factory.mktemp("saved")
    found = Evaluator(MODEL, UTTERANCES, factorisation=factorisation).evaluate(ranks)
    save_compressed(compress(MODEL, ranks, factorisation), folder)
    loaded = load_compressed(folder)
    errors = count_errors(loaded, [utterance.text for utterance in UTTERANCES], recognise_all(loaded, UTTERANCES))
    assert (errors.edits, count_parameters(loaded)) == (found.edits, found.params)


def test_matrix_granularity():
    evaluator = Evaluator(MODEL, UTTERANCES, granularity="matrix")
    assert [layer.name for layer in evaluator.layers if layer.kind == "gru"] == ["gru.weight_ih_l0", "gru.weight_hh_l0"]
    whole = EVALUATOR.evaluate({"gru": 4})
    parts = evaluator.evaluate({"gru.weight_ih_l0": 4, "gru.weight_hh_l0": 4})
    assert (parts.edits, parts.params, parts.macs) == (whole.edits, whole.params, whole.macs)


def test_blocks_of_layers():
    evaluator = Evaluator(MODEL, UTTERANCES, {"first": ["front", "gru"], "last": ["output"]})
    assert [layer.name for layer in evaluator.layers] == ["first", "last"]
    parts = EVALUATOR.evaluate({"front": 5, "gru": 5, "output": 3})
    blocks = evaluator.evaluate({"first": 5, "last": 3})
    assert (blocks.edits, blocks.params, blocks.macs) == (parts.edits, parts.params, parts.macs)
    # Rank 24 is below break-even for none but "front" (32 x 200): the other matrices of the block stay dense.
    assert evaluator.evaluate({"first": 24}).params == EVALUATOR.evaluate({"front": 24}).params
    assert evaluator.evaluate({"first": 24}).edits == EVALUATOR.evaluate({"front": 24}).edits
    compressed = compress(MODEL, evaluator.matrix_ranks({"first": 5, "last": 3}))
    assert count_parameters(compressed) == blocks.params
    assert 0 < evaluator.activation_error({"first": 5}) < 2
    for bad, message in [
        ({"a": ["gruu"]}, "no layer is named 'gruu'"),
        ({"a": ["gru"], "b": ["gru"]}, "in another block already"),
        ({"a": []}, "block 'a' has no layer"),
    ]:
        with pytest.raises(ValueError, match=message):
            Evaluator(MODEL, UTTERANCES, bad)


@settings(max_examples=20, deadline=None)
@given(choices())
def test_counted_without_making_the_model(ranks):
    assert EVALUATOR.params(ranks) == compressed_parameters(MODEL, ranks)


class Counting(TinyCTC):
    """Counts its work."""

    batches = 0

    def recognise(self, waveforms):
        Counting.batches += 1
        return super().recognise(waveforms)


def test_the_cache_answers_without_work_and_changes_no_number(tmp_path):
    ranks = {"gru": 5}
    expected = EVALUATOR.evaluate(ranks)
    model = Counting()
    cache = EvaluationCache(tmp_path / "cache.sqlite")
    assert Evaluator(model, UTTERANCES, cache=cache).evaluate(ranks) == expected
    done = Counting.batches
    assert Evaluator(Counting(), UTTERANCES, cache=cache).evaluate(ranks) == expected
    # The same configuration in the other granularity is the same measurement.
    by_matrix = {"gru.weight_ih_l0": 5, "gru.weight_hh_l0": 5}
    assert Evaluator(Counting(), UTTERANCES, "matrix", cache=cache).evaluate(by_matrix).edits == expected.edits
    assert Counting.batches == done
    Evaluator(Counting(), UTTERANCES[:-1], cache=cache).evaluate(ranks)
    Evaluator(Counting(seed=1), UTTERANCES, cache=cache).evaluate(ranks)
    assert Counting.batches > done + 1


def test_layers_that_stay_dense():
    """No rank can be chosen for them, at any granularity; the sizes are still those of the whole model."""
    whole = EVALUATOR.layers
    for granularity in ("layer", "matrix"):
        evaluator = Evaluator(MODEL, UTTERANCES, granularity, dense=["fr*", "gru"])
        names = [matrix.name for layer in evaluator.layers for matrix in layer.matrices]
        assert names == [m.name for layer in whole if layer.name not in ("front", "gru") for m in layer.matrices]
        assert evaluator.on(UTTERANCES[:2]).layers == evaluator.layers
    evaluator = Evaluator(MODEL, UTTERANCES, dense=["fr*", "gru"])
    name = evaluator.layers[0].name
    assert evaluator.evaluate({name: 2}).params == EVALUATOR.evaluate({name: 2}).params
    with pytest.raises(ValueError, match="no layer is named 'gru'"):
        evaluator.evaluate({"gru": 2})
    with pytest.raises(ValueError, match=r"dense: no layer matches 'grus'; the layers are front"):
        Evaluator(MODEL, UTTERANCES, dense=["grus"])
    with pytest.raises(ValueError, match="none is left to compress"):
        Evaluator(MODEL, UTTERANCES, dense=["*"])


def test_threads_of_the_caller_are_given_back():
    torch.set_num_threads(2)
    EVALUATOR.evaluate({"hidden": 1})
    assert torch.get_num_threads() == 2


def test_singular_vectors_are_computed_on_one_thread(monkeypatch):
    decompose, threads = torch.linalg.svd, set()

    def watched(*arguments, **options):
        threads.add(torch.get_num_threads())
        return decompose(*arguments, **options)

    monkeypatch.setattr(torch.linalg, "svd", watched)
    torch.set_num_threads(2)
    Evaluator(MODEL, UTTERANCES)
    assert (threads, torch.get_num_threads()) == ({1}, 2)


@pytest.mark.slow
def test_another_process_measures_the_same():
    code = (
        "from tests.evaluation.test_evaluator import *\n"
        "torch.set_num_threads(2)\n"
        "e = Evaluator(MODEL, UTTERANCES).evaluate({'gru': 4, 'front': 5})\n"
        "print(e.edits, e.params, e.macs)"
    )
    output = python("-c", code).stdout
    here = EVALUATOR.evaluate({"gru": 4, "front": 5})
    assert output.strip() == f"{here.edits} {here.params} {here.macs}"


def test_the_factors_are_those_of_the_model():
    """Their key does not tell whose they are: what another model's give must not get into the cache."""
    model = copy.deepcopy(MODEL)
    factors = SVD(model)
    assert Evaluator(MODEL, UTTERANCES, factorisation=factors).key == EVALUATOR.key
    with torch.no_grad():
        model.hidden.weight.mul_(0.5)
    with pytest.raises(ValueError, match="the factors are of another model, or of earlier weights of this one"):
        Evaluator(model, UTTERANCES, factorisation=factors)


def test_errors_name_layer_and_utterance():
    with pytest.raises(ValueError, match="no layer is named 'gruu'"):
        EVALUATOR.evaluate({"gruu": 1})
    with pytest.raises(ValueError, match="layer 'gru': rank must be an integer in 1"):
        EVALUATOR.evaluate({"gru": 0})
    with pytest.raises(ValueError, match="utterance 'x': no reference word"):
        Evaluator(MODEL, [Utterance("x", "s", torch.zeros(8000), "...")])
    with pytest.raises(ValueError, match="granularity"):
        Evaluator(MODEL, UTTERANCES, granularity="model")


CONFIGURATIONS = [{"gru": 4}, {}, {"front": 2, "gru": 3}, {"gru": 4}, {"hidden": 5}]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_several_at_once_are_as_one_after_the_other(workers, tmp_path):
    cache = EvaluationCache(tmp_path / "cache.sqlite")
    evaluator = Evaluator(MODEL, UTTERANCES, cache=cache, workers=workers)
    expected = [EVALUATOR.evaluate(ranks) for ranks in CONFIGURATIONS]
    assert list(evaluator.evaluate_many(CONFIGURATIONS)) == expected
    assert len(cache) == 4
    assert list(evaluator.evaluate_many(CONFIGURATIONS)) == expected
    assert pickle.loads(pickle.dumps(evaluator)).evaluate({"gru": 4}) == expected[0]
    with pytest.raises(ValueError, match="no layer is named 'nowhere'"):
        evaluator.evaluate_many([{"gru": 1}, {"nowhere": 1}])
    assert len(cache) == 4
    evaluator.close()
    assert list(evaluator.evaluate_many(CONFIGURATIONS)) == expected
    evaluator.close()


class Watched(EvaluationCache):
    """Knows how many keys are locked now, and at most."""

    locked = most = 0

    @contextmanager
    def exclusive(self, keys):
        with super().exclusive(keys):
            self.locked = len(keys)
            self.most = max(self.most, self.locked)
            yield
        self.locked = 0


@pytest.mark.parametrize("cached", [False, True])
def test_each_comes_as_soon_as_it_is_measured_and_no_lock_is_held_then(cached, tmp_path):
    cache = Watched(tmp_path / "cache.sqlite") if cached else None
    evaluator = Evaluator(Counting(), UTTERANCES, cache=cache)
    before = Counting.batches
    each = len(list(in_batches([utterance.waveform.numel() for utterance in UTTERANCES])))
    found = evaluator.evaluate_many([{"gru": rank} for rank in range(1, 6)])
    assert Counting.batches == before
    for number in range(1, 4):
        next(found)
        assert Counting.batches == before + number * each
        if cache is not None:
            assert (cache.locked, cache.most, len(cache)) == (0, 1, number)
    evaluator.evaluate({"gru": 4})  # of the same ones, in between
    assert next(found) == EVALUATOR.evaluate({"gru": 4})
    found.close()
    if cache is not None:
        assert len(cache) == 4


@pytest.mark.slow
def test_workers_lock_a_few_at_a_time(tmp_path):
    cache = Watched(tmp_path / "cache.sqlite")
    evaluator = Evaluator(MODEL, UTTERANCES, cache=cache, workers=2)
    evaluator.evaluate({"gru": 2})
    configurations = [{"gru": gru, "hidden": hidden} for gru in (1, 2, 3) for hidden in range(1, 11)]
    found = evaluator.evaluate_many(configurations)
    assert next(found) == EVALUATOR.evaluate(configurations[0])
    assert (cache.locked, cache.most, len(cache)) == (0, 16, 17)
    assert list(found) == [EVALUATOR.evaluate(ranks) for ranks in configurations[1:]]
    evaluator.close()


def test_key_says_what_is_measured_and_how():
    same = [
        Evaluator(TinyCTC(), half_recognised(TinyCTC()), memory=0, workers=2),
        pickle.loads(pickle.dumps(EVALUATOR)),
    ]
    assert {evaluator.key for evaluator in same} == {EVALUATOR.key}
    others = [
        EVALUATOR,
        Evaluator(TinyCTC(seed=1), UTTERANCES),
        Evaluator(MODEL, UTTERANCES[:-1]),
        Evaluator(MODEL, UTTERANCES, "matrix"),
        Evaluator(MODEL, UTTERANCES, {"a": ["gru"]}),
        Evaluator(MODEL, UTTERANCES, {"a": ["hidden"]}),
    ]
    assert len({evaluator.key for evaluator in others}) == len(others)


class Asked:
    """A cache that holds everything, and knows what it was asked for."""

    def __init__(self):
        self.keys = []

    def get(self, key):
        self.keys.append(key)
        return {"edits": [1, 0], "words": [2, 1], "capped": 0}


def test_keys_are_those_of_earlier_versions(monkeypatch):
    """What people have measured must be found again: these hashes are as ever, for torch 2.0 on a CPU."""
    monkeypatch.setattr(torch, "__version__", "2.0")
    model = TinyCTC()
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_((torch.arange(weights.numel()) % 61 - 30).view(weights.shape) / 64)
    waveforms = torch.arange(8000) % 100 / 128, torch.arange(9000) % 50 / 64
    spoken = [Utterance("a", "s", waveforms[0], "One two"), Utterance("b", "s", waveforms[1], "three")]
    cache = Asked()
    evaluator = Evaluator(model, spoken, cache=cache)
    assert evaluator.evaluate({"gru": 4}).wer == 1 / 3
    assert evaluator.evaluate({}).edits == (1, 0)
    assert cache.keys == [
        "da27a42e279e5ff10c1df959d6405e707adffd4020475a29e470a62d745ec264",
        "c79e33ad2749340dfe6badf3212e6c3b867b849a225a928669ab54e712faf2b9",
    ]
    assert evaluator.key == "91a3c87545f4f9a3e68da0f176f5ff97c7ad8e09994ad281ebac9b8c0eea8b65"
    by_matrix = Evaluator(model, spoken, "matrix")
    assert by_matrix.key == "2143a75ef6fb44b55980fd549ef1e431bac44ca02d80db7016897ec59c80c9ce"


@pytest.mark.parametrize(
    ("measurer", "mark"), [(Measurer, []), (DivergenceMeasurer, ["divergence"]), (SideBySideMeasurer, [8])]
)
def test_content_is_the_hash_of_what_the_counts_depend_on(measurer, mark):
    model = make_model()

    def parts():
        how = [2, 16, "cpu", torch.__version__, *mark, "svd-float16", "las"]
        yield from (json.dumps(part, sort_keys=True).encode() for part in (how, model.to_config()))
        yield json.dumps(dict(model.decoder_settings), sort_keys=True).encode()
        for name, tensor in sorted(inference_tensors(model).items()):
            yield name.encode()
            yield f"torch.float32 {tuple(tensor.shape)} ".encode() + tensor.detach().numpy().tobytes()
        yield b"call me"
        yield b"torch.float32 (8000,) " + tones(1)[0].numpy().tobytes()

    expected = hashlib.sha256()
    for part in parts():
        expected.update(len(part).to_bytes(8, "little") + part)
    assert measurer(model, [Utterance("0", "s", tones(1)[0], "Call me!")]).content == expected.digest()


def test_bad_number_of_workers():
    with pytest.raises(ValueError, match="workers must be a whole number of at least 1"):
        Evaluator(MODEL, UTTERANCES, workers=0)


def test_forms_side_by_side_are_measured_as_one_by_one():
    model = make_model()
    spoken = [Utterance(str(index), "s", wave, "set an alarm") for index, wave in enumerate(tones(4))]
    one_by_one, side_by_side = Measurer(model, spoken), SideBySideMeasurer(model, spoken)
    configurations = [
        matrix_ranks(model.layers, {layer.name: min(1 + index, layer.max_rank) for layer in model.layers})
        for index in range(18)
    ]
    assert list(side_by_side.measure(configurations)) == list(one_by_one.measure(configurations))
    assert side_by_side(configurations[3]) == one_by_one(configurations[3])
    assert side_by_side.content != one_by_one.content


def test_workers_are_for_cpus():
    with pytest.raises(ValueError, match="the model is on 'meta': leave workers at 1"):
        Evaluator(copy.deepcopy(MODEL).to("meta"), UTTERANCES, workers=2)
