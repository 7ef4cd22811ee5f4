import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import shrinkml_env
from experiments.common.compared import methods_of
from experiments.common.compose import compose_config
from experiments.common.findings import Errors, Finding
from experiments.common.on_test import chunks, reported
from experiments.studies import real_speech
from experiments.studies.real_speech import DEV, TEST, purposes_of
from shrinkml_env import load_model
from shrinkml_env.data import SpeechFolder
from tests.helpers.configs import CONF

SPEECH = Path(shrinkml_env.__file__).parent / "assets" / "speech"


@pytest.fixture
def root(tmp_path):
    """The embedded speech under the names of LibriSpeech's sets."""
    for name, ours in zip((*DEV, *TEST), ("dev", "proxy-pool", "test", "calibration"), strict=True):
        (tmp_path / "LibriSpeech").mkdir(exist_ok=True)
        (tmp_path / "LibriSpeech" / name).symlink_to(SPEECH / ours)
    return tmp_path / "LibriSpeech"


def config_of(root, *overrides):
    return compose_config("real_speech", [f"root={root}", f"outputs={root.parent / 'outputs'}", *overrides])


def purposes(folder, **counts):
    """An override that gives each purpose as many utterances, of speakers of its own."""
    known = SpeechFolder(folder, DEV)
    voices = [
        [name for name, speaker in zip(known.ids, known.speakers, strict=True) if speaker == voice]
        for voice in dict.fromkeys(known.speakers)
    ]
    share = len(voices) // len(counts)
    lists = []
    for place, (purpose, count) in enumerate(counts.items()):
        ids = [name for of_voice in voices[place * share : (place + 1) * share] for name in of_voice]
        lists.append(f"{purpose}: [{', '.join(ids[:count])}]")
    return f"speech={{{', '.join(lists)}}}"


def test_no_speaker_serves_two_purposes():
    """The ids of LibriSpeech begin with their speaker."""
    lists = OmegaConf.load(CONF / "speech" / "librispeech.yaml")
    assert {purpose: len({*ids}) for purpose, ids in lists.items()} == {"calibration": 80, "pool": 40, "dev": 30}
    voices = [{name.split("-")[0] for name in ids} for ids in lists.values()]
    assert len(set.union(*voices)) == sum(map(len, voices)) >= 40


def test_a_missing_utterance_is_named(root):
    first = OmegaConf.load(CONF / "speech" / "librispeech.yaml").calibration[0]
    with pytest.raises(
        ValueError, match=f"speech.calibration: there is no utterance '{first}' in dev-clean or dev-other"
    ):
        purposes_of(config_of(root))
    config = config_of(root, purposes(root, calibration=9, pool=4, dev=30))
    assert {purpose: len(ids) for purpose, ids in purposes_of(config).items()} == {
        "calibration": 9,
        "pool": 4,
        "dev": 30,
    }


def test_a_speaker_of_two_purposes_is_named(root):
    known = SpeechFolder(root, DEV)
    voice = [name for name, speaker in zip(known.ids, known.speakers, strict=True) if speaker == "100"]
    config = config_of(root, purposes(root, calibration=9, pool=4, dev=3))
    assert voice[0] in config.speech.calibration
    config.speech.dev = voice[-1:]
    with pytest.raises(ValueError, match=f"speech.dev: '{voice[-1]}' is of a speaker of speech.calibration, 100"):
        purposes_of(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["base=['proxy=test']"], "base: proxy=test: the study's own options decide it"),
        (
            ["methods.uniform.overrides=['constraint.budget=0.5']"],
            "methods.uniform: constraint.budget=0.5: the study's own options decide it",
        ),
        (["methods.uniform.agent=ppo"], "methods.uniform: agent ppo is a search, not a rule: give it a budget"),
        (["+methods.uniform.reward=linear"], "methods.uniform: without a budget nothing is rewarded"),
        (["+methods.uniform.seeds=2"], "methods.uniform: a rule gives the same ranks with every seed: give no seeds"),
        (["complete=[tpe]"], "complete: 'tpe' is not among the methods: closed_form, two rounds, uniform"),
    ],
)
def test_methods_that_cannot_be_compared(root, overrides, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        methods_of(config_of(root, "compared=closed_form", *overrides))


def test_models_that_cannot_be_asked_for_this(root):
    model = load_model("las_small")

    def check(*overrides):
        config = config_of(root, "compared=closed_form", *overrides)
        real_speech.check_model(config, methods_of(config), model)

    with pytest.raises(ValueError, match=r"^scopes.encoder.dense: no layer matches 'decoder.layers\.\*'"):
        check("scopes.encoder.dense=['decoder.layers.*']")
    mine = "+methods.mine={agent:uniform,overrides:['dense=[encoder.*]']}"
    with pytest.raises(ValueError, match=r"^methods.mine, with scopes.encoder: dense: encoder\.\*, decoder\.\* match"):
        check(mine)
    with pytest.raises(ValueError, match=r"^methods.closed_form, two rounds, with scopes.encoder: dense: no layer mat"):
        check("base=['dense=[nope]']")
    check(mine, "~scopes.encoder", "checked=0")
    check(mine.replace("}", ",scopes:[whole]}"), "checked=0")
    with pytest.raises(ValueError, match="checked: only encoder-decoder models of Hugging Face"):
        check()
    check("checked=0")


def test_chunks_make_up_the_set_and_are_spread_over_its_speakers(root):
    found = chunks(str(root), "test-clean", 100)
    folder = SpeechFolder(root, "test-clean")
    assert sorted(name for ids in found for name in ids) == sorted(folder.ids)
    assert {len(ids) for ids in found[:-1]} == {100}
    speaker = dict(zip(folder.ids, folder.speakers, strict=True))
    counts = [sum(speaker[name] == voice for name in found[0]) for voice in set(folder.speakers)]
    assert max(counts) - min(counts) <= 1


@pytest.mark.slow
def test_the_command_goes_on_where_it_was_stopped(root, monkeypatch, capsys, panels):
    monkeypatch.setenv("SHRINKML_CACHE", str(root.parent / "cache.sqlite"))
    sizes = [purposes(root, calibration=2, pool=4, dev=3), "chunk=50", "checked=0", "complete=[random]"]
    config = config_of(root, "model=las_small", *sizes)
    config.selection = ["signal=divergence", "configurations=2", "sizes=[2]"]
    config.scopes = {"whole": {"dense": ["encoder.0"], "sizes": [0.8]}}
    config.rivals = ["uniform"]
    config.complete = ["random"]
    config.methods = {
        "uniform": {"agent": "uniform", "overrides": ["factorisation=svd"]},
        "the same": {"agent": "uniform", "overrides": ["factorisation=svd"]},
        "random": {
            "agent": "random",
            "reward": "accuracy",
            "budget": 2,
            "seeds": 2,
            "overrides": ["constraint=decrement"],
        },
    }
    real_speech.main.__wrapped__(config)
    first = capsys.readouterr().out
    results = (root.parent / "outputs" / "results.jsonl").read_text()
    # Both rules ask for one configuration, which is sought once, measured once, and shown twice. The original and a
    # seed of the search are measured on 11 and 2 chunks, the others on one of each set.
    assert len(results.splitlines()) == 1 + 3 + 2 * (11 + 2) + 2 * 2
    shown = [line.split() for line in first.splitlines() if line.startswith("whole")]
    uniform = next(line for line in shown if line[2] == "uniform")
    assert next(line for line in shown if line[2:4] == ["the", "same"])[4:] == uniform[3:]
    assert "encoder.0" not in results

    def never(task):
        raise AssertionError(task)

    monkeypatch.setattr(real_speech, "make", never)
    real_speech.main.__wrapped__(config)
    assert capsys.readouterr().out == first
    assert "the original" in first
    assert "Kendall's tau with dev" in first
    assert "transformers" not in first
    assert min(panels) > 1


def test_a_model_is_compared_with_the_original_utterance_by_utterance(root):
    """On a chunk of each set or the whole sets: an utterance has as many errors as its id says, and one more."""
    config = config_of(root, "compared=closed_form", "model=las_small", "complete=[uniform]", "chunk=100")
    study = real_speech.Study(config, methods_of(config), load_model("las_small"), {"calibration": ["a"], "dev": ["b"]})
    found = [
        Finding("encoder", 0.8, method, 0, {"encoder.1": rank}, 0.9, 0.9, 0, None)
        for method, rank in (("closed_form, two rounds", 9), ("uniform", 10))
    ]
    cells = study.measurements(found)
    assert [len(of_one) for of_one in cells] == [6 + 1, 2, 6 + 1]

    def errors(cell):
        return Errors([int(name[-4:]) + bool(cell.task.ranks) for name in cell.task.ids], [1] * len(cell.task.ids))

    original, chunk, whole = reported(found, cells, [errors(cell) for of_one in cells for cell in of_one])
    assert [row.found for row in (original, chunk, whole)] == [None, *found]
    for row, counts in ((chunk, (100, 80)), (whole, (530, 80))):
        assert tuple(len(row.errors[subset].edits) for subset in TEST) == counts
        for subset in TEST:
            pairs = zip(row.errors[subset].edits, row.before[subset].edits, strict=True)
            assert {after - before for after, before in pairs} == {1}


def test_a_size_is_a_share_of_the_parameters_in_question(root):
    """With the same layers to compress, nine tenths of the encoder are another size than nine tenths of the whole."""
    config = config_of(root, "compared=closed_form", "model=las_small", "~scopes.whole", "scopes.encoder.sizes=[0.9]")
    config.scopes = {scope: {"dense": ["decoder.*"], "sizes": [0.9]} for scope in ("encoder", "whole")}
    study = real_speech.Study(config, methods_of(config), load_model("las_small"), {"calibration": ["a"], "dev": ["b"]})
    encoder, whole = study.search_cells()[::2]
    assert encoder.task.method == whole.task.method
    assert encoder.task.ratio > whole.task.ratio
    assert encoder.key != whole.key


@pytest.mark.parametrize("compared", [path.stem for path in (CONF / "compared").iterdir()])
def test_what_can_be_compared(root, compared):
    """Every method's settings can be made, and searches with other numbers of finalists are other searches."""
    config = config_of(root, f"compared={compared}", "model=las_small", "scopes.encoder.dense=[decoder.*]")
    heard = {"calibration": ["a"], "proxy": ["b"], "dev": ["c"]}
    study = real_speech.Study(config, methods_of(config), load_model("las_small"), heard)
    cells = study.search_cells()
    assert {cell.task.method.name for cell in cells} == {*config.methods} >= {*config.rivals}
    config.finalists += 1
    changed = [cell.key != old.key for cell, old in zip(study.search_cells(), cells, strict=True)]
    assert changed == [cell.task.method.budget is not None for cell in cells]


def test_only_what_is_compressed_depends_on_the_calibration(root):
    config = config_of(root, "compared=closed_form", "model=las_small")
    methods, model = methods_of(config), load_model("las_small")
    found = [Finding("encoder", 0.8, "closed_form, two rounds", 0, {"encoder.1": 9}, 0.9, 0.9, 0, None)]
    ours, others = (
        [
            cell
            for of_one in real_speech.Study(config, methods, model, {"calibration": ids, "dev": ["c"]}).measurements(
                found
            )
            for cell in of_one
        ]
        for ids in (["a"], ["b"])
    )
    same = [cell.key == other.key for cell, other in zip(ours, others, strict=True)]
    assert same == [not cell.task.ranks for cell in ours]
    assert same.count(True) == same.count(False) == len(TEST)
