"""Files with anything in them: they are read, or an error of one line names them. A hundred examples of each here,
thousands with ``--hypothesis-profile=long``."""

import json
import shutil
import struct

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from experiments.common.record import read_record
from experiments.common.results import Cell, append_result, read_results
from shrinkml_env import Ledger, load_compressed, load_utterances, save_compressed
from shrinkml_env.compression import compress
from shrinkml_env.evaluation import read_ledger
from shrinkml_env.space import Sensitivity
from tests.helpers.fake_evaluator import FakeEvaluator
from tests.helpers.models import TinyCTC
from tests.helpers.speech import make_corpus
from tests.reliability.bad_input.runs import RECORD

pytestmark = pytest.mark.slow

fuzz = settings(
    max_examples=max(100, settings.default.max_examples),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# Nothing in between: a model of 20,000 units is no error, but fills the memory.
NUMBERS = st.integers(-70, 70) | st.integers(2**45, 2**70) | st.floats() | st.booleans()
LEAVES = (
    st.none() | NUMBERS | st.text(max_size=8) | st.sampled_from(["", "../x", "las", "float16", "\ud800", "_target_"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(content, path=()):
    """The paths of all values in nested JSON."""
    found = [path]
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        found += places(value, (*path, key))
    return found


@st.composite
def mutated(draw, content):
    """JSON with a few values exchanged, removed or added."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(content)))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                content = draw(VALUES)
            continue
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        kind = draw(st.sampled_from(["exchange", "remove", "add"]))
        if kind == "exchange":
            inner[path[-1]] = draw(VALUES)
        elif kind == "remove":
            del inner[path[-1]]
        elif isinstance(inner, dict):
            inner[draw(st.text(max_size=5))] = draw(VALUES)
        else:
            inner.append(draw(VALUES))
    return content


@st.composite
def damaged(draw, content):
    """Bytes with a part exchanged, or cut off."""
    begin = draw(st.integers(0, len(content)))
    end = draw(st.integers(begin, min(len(content), begin + 40)))
    inserted = draw(st.binary(max_size=20) | st.sampled_from([b"\n", b"{", b"\xff", b"[" * 5000, b'"', b"e999", b"\0"]))
    return content[:begin] + inserted + (content[end:] if draw(st.booleans()) else b"")


def contents(example):
    """Bytes of a file of JSON: anything, a damaged file, mutated JSON."""
    texts = mutated(example).map(lambda content: json.dumps(content).encode())
    return st.binary(max_size=200) | damaged(json.dumps(example).encode()) | texts


def is_told(read, *names):
    """Read a file, and return whether that failed; what it raises must be one line that names the file."""
    error = None
    try:
        read()
    except (ValueError, OSError) as raised:
        error = raised
    if error is None:
        return False
    assert "\n" not in str(error)
    assert any(name in str(error) for name in names), error
    return True


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "model"
    save_compressed(compress(TinyCTC(), {"hidden": 5, "gru": 3}), folder)
    return folder


CONFIG = {
    "format_version": 1,
    "architecture": "tiny_ctc",
    "config": {"units": 24, "seed": 0},
    "ranks": {"gru.weight_ih_l0": 3, "gru.weight_hh_l0": 3, "hidden.weight": 5},
    "storage_dtype": "float16",
}


@fuzz
@given(contents(CONFIG) | contents({**CONFIG, "format_version": 2, "int8": ["output.weight"]}))
def test_configs_of_models(model, content):
    (model / "config.json").write_bytes(content)
    # Where another rank or size is asked for, the tensors do not fit.
    is_told(lambda: load_compressed(model), "config.json", "model.safetensors")
    (model / "config.json").write_text(json.dumps(CONFIG))
    load_compressed(model)


@fuzz
@given(st.data())
def test_tensors_of_models(model, data):
    path = model / "model.safetensors"
    whole = path.read_bytes()
    (size,) = struct.unpack("<Q", whole[:8])
    header, body = json.loads(whole[8 : 8 + size]), whole[8 + size :]
    if data.draw(st.booleans()):
        content = data.draw(st.binary(max_size=100) | damaged(whole))
    else:
        text = json.dumps(data.draw(mutated(header))).encode()
        length = data.draw(st.just(len(text)) | st.integers(0, 2**64 - 1))
        content = struct.pack("<Q", length) + text + body
    path.write_bytes(content)
    try:
        is_told(lambda: load_compressed(model), "model.safetensors")
    finally:
        path.write_bytes(whole)
    load_compressed(model)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "whole.jsonl"
    ledger = Ledger(path)
    for rank in (1, 2, 3):
        ledger.evaluate(FakeEvaluator(), {"output": rank})
    ledger.close()
    return path


@fuzz
@given(st.data())
def test_ledgers(ledger, data):
    path, evaluator = ledger.with_name("evaluations.jsonl"), FakeEvaluator()
    whole = ledger.read_bytes()
    lines = whole.splitlines()
    if data.draw(st.booleans()):
        content = data.draw(st.binary(max_size=200) | damaged(whole))
    else:
        number = data.draw(st.integers(0, len(lines) - 1))
        lines[number] = json.dumps(data.draw(mutated(json.loads(lines[number])))).encode()
        content = b"\n".join(data.draw(st.permutations(lines) | st.just(lines))) + b"\n"
    path.write_bytes(content)
    opened = Ledger(path)
    told = is_told(lambda: opened.attach(evaluator), "evaluations.jsonl")
    opened.close()
    assert path.read_bytes() == content
    if not told and not is_told(lambda: read_ledger(path), "evaluations.jsonl"):
        # What was read is what could have been measured: layers, and one number of edits for each utterance.
        for evaluation in read_ledger(path)[1]:
            assert list(evaluation.ranks) == [layer.name for layer in evaluator.layers]
            assert len(evaluation.edits) == len(evaluation.words) == 64


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("fuzz"))


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@fuzz
@given(st.data())
def test_transcripts(corpus, data):
    (path,) = corpus.folder.rglob("*.trans.txt")
    whole = path.with_suffix(".whole")
    if not whole.exists():
        shutil.copy(path, whole)
    valid = whole.read_bytes()
    lines = data.draw(st.lists(st.tuples(st.sampled_from(corpus.ids) | WORDS, WORDS), max_size=12))
    listed = "\n".join(f"{name} {text}" for name, text in lines).encode()
    path.write_bytes(data.draw(st.sampled_from([listed]) | damaged(valid) | st.binary(max_size=60)))
    spec = {"root": str(corpus.folder.parent), "subset": "train"}
    # An utterance that is not listed, or listed without audio, is named by its audio file.
    if not is_told(lambda: load_utterances(spec), ".trans.txt", ".flac", "no utterance in it"):
        assert {utterance.id for utterance in load_utterances(spec)} == {*corpus.ids}
    path.write_bytes(valid)


@fuzz
@given(st.data())
def test_lists_of_utterances(corpus, data):
    path = corpus.folder.parent / "ids.txt"
    names = st.sampled_from(corpus.ids) | WORDS
    listed = st.lists(names, max_size=5).map(lambda chosen: " ".join(chosen).encode())
    path.write_bytes(data.draw(listed | st.binary(max_size=60)))
    spec = {"root": str(corpus.folder.parent), "subset": "train", "ids": str(path)}
    if not is_told(lambda: load_utterances(spec), "ids.txt"):
        wanted = set(path.read_text("utf-8-sig").split())
        assert {utterance.id for utterance in load_utterances(spec)} == wanted


@fuzz
@given(content=contents(RECORD))
def test_records_of_runs(tmp_path, content):
    path = tmp_path / "best.json"
    path.write_bytes(content)
    is_told(lambda: read_record(path, *RECORD), "best.json")


@fuzz
@given(st.data())
def test_results_of_studies(tmp_path, data):
    path = tmp_path / "results.jsonl"
    path.unlink(missing_ok=True)
    append_result(path, Cell(1, {"number": 1}, {}), {"value": 1})
    append_result(path, Cell(2, {"number": 2}, {}), {"value": 2})
    path.write_bytes(data.draw(st.binary(max_size=200) | damaged(path.read_bytes())))
    if not is_told(lambda: read_results(path), "results.jsonl"):
        assert all(isinstance(result, dict) for result in read_results(path).values())


SENSITIVITY = {
    "format": "shrinkml-sensitivity-3",
    "factorisation": "svd",
    "baseline_wer": 0.1,
    "curves": {"hidden": {"shapes": [[4, 3]], "wer": {"1": 0.5, "2": 0.2}}},
}


@fuzz
@example(json.dumps(SENSITIVITY).replace("4", "Infinity").encode())
@example(json.dumps(SENSITIVITY).replace("0.5", "1" + 400 * "0").encode())
@given(content=contents(SENSITIVITY))
def test_sensitivities(tmp_path, content):
    path = tmp_path / "sensitivity.json"
    path.write_bytes(content)
    is_told(lambda: Sensitivity.load(path), "sensitivity.json")


def test_the_examples_are_read(model, tmp_path):
    (model / "config.json").write_text(json.dumps(CONFIG))
    assert load_compressed(model).units == 24
    (tmp_path / "sensitivity.json").write_text(json.dumps(SENSITIVITY))
    assert Sensitivity.load(tmp_path / "sensitivity.json").curves["hidden"].wer == {1: 0.5, 2: 0.2}
    (tmp_path / "best.json").write_text(json.dumps(RECORD))
    assert read_record(tmp_path / "best.json", *RECORD) == RECORD
