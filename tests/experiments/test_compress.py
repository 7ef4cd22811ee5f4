"""The engineer's command on a small recogniser of another architecture, and every mistake that can be made with it."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from experiments.common.agent import make_agent
from experiments.common.compose import compose_config
from experiments.common.duration import predictions
from experiments.common.environment import make_environment
from experiments.common.goal import compose_search, require_in_space
from experiments.common.measure import measure
from experiments.common.search_run import record_entries
from experiments.common.searches import compensates
from experiments.common.speech import calibrate_on, divide, speaker_overlap
from experiments.compress import compensate, compress, prepare
from experiments.validate import validate, validate_ranks
from shrinkml_env import Ledger, load_compressed, load_utterances, run_search
from shrinkml_env.compression import count_parameters
from shrinkml_env.data import SpeechFolder
from shrinkml_env.envs import make_problem
from shrinkml_env.envs.wrapped import search_problem
from tests.helpers.fake_evaluator import FakeEvaluator
from tests.helpers.las import MODEL
from tests.helpers.models import TinyCTC
from tests.helpers.processes import python
from tests.helpers.speech import SHIPPED_SPEECH
from tests.helpers.workplace import make_speech

CONF = Path(__file__).parents[2] / "conf" / "compress"


@pytest.fixture
def data(tmp_path):
    return make_speech(tmp_path, TinyCTC())


@pytest.fixture
def configure(data):
    def compose_compress(*overrides):
        common = [f"model={data.parent / 'model'}", f"data={data}", f"outputs={data.parent / 'outputs'}", "budget=8"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("compress", [*common, *overrides])

    return compose_compress


@pytest.mark.slow
@pytest.mark.parametrize("goal", ["target_size=0.6", "max_wer_increase=30"])
def test_leaves_a_smaller_model_and_what_it_costs(configure, goal, capsys):
    config = configure(goal)
    job = prepare(config)
    directory = compress(config, job)
    printed = capsys.readouterr().out
    record = json.loads((directory / "best.json").read_text())
    small, original = load_compressed(directory / "compressed"), load_compressed(directory / "original")
    ratio = count_parameters(small) / count_parameters(original)
    assert record["size_ratio"] == ratio < 1
    if goal.startswith("target"):
        assert ratio <= 0.6
        assert "Asked for at most 0.6 of the size: reached." in printed
        # The largest uniform ranks of that size are tried first; this model has no gradients to give.
        search = OmegaConf.load(directory / "search.yaml")
        problem = search_problem(make_environment(search, Ledger()))
        expected = [instantiate(rule).ranks_of_size(problem, 0.6) for rule in search.agent.rules]
        first = json.loads((directory / "evaluations.jsonl").read_text().splitlines()[1])
        assert [first["ranks"]] == expected
        # What is chosen is no worse on dev than the rule.
        dev = problem.evaluator.on(load_utterances(search.dev, "dev"))
        (rule,) = (problem.reward(dev.evaluate(ranks), dev.baseline)[0] for ranks in expected)
        assert record["rewards"]["dev"] >= rule
    else:
        assert "Asked for a WER increase of at most 30 points: " in printed
    assert "No voice is in two parts" in printed
    test = record["sets"]["test"]
    assert record["wer_increase"]["value"] == pytest.approx(test["wer_after"] - test["wer_before"])
    assert record["wer_increase"]["low"] <= record["wer_increase"]["value"] <= record["wer_increase"]["high"]
    assert "95 % interval" in (directory / "report.html").read_text()
    parts = [set((directory / f"{name}.txt").read_text().split()) for name in ("proxy", "dev", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 12
    voices = [{name.partition("-")[0] for name in part} for part in parts]
    assert sum(map(len, voices)) == 4
    assert record["factorisation"]["name"] == "activation_aware"
    calibration = directory / "calibration.txt"
    assert record["factorisation"]["calibration"]["ids"] == str(calibration.absolute())
    assert set(calibration.read_text().split()) == parts[0]  # there are too few for a smaller proxy set
    assert validate(directory) == []
    # The same command finds the folder again, and what is in it.
    (directory / "best.json").unlink()
    assert compress(config, prepare(config)) == directory
    assert json.loads((directory / "best.json").read_text()) == record


@pytest.mark.slow
@pytest.mark.parametrize(("allowed", "good_enough"), [(60, True), (20, False)])
def test_the_size_for_a_word_error_rate_is_looked_for_by_halving(configure, capsys, allowed, good_enough):
    """This model loses between 20 and 60 points at every size, so the range closes in on one of its ends."""
    config = configure(f"max_wer_increase={allowed}", "budget=40", "overrides=['agent.imagined=50']")
    job = prepare(config)
    directory = compress(config, job)
    told = re.findall(r"([+-][\d.]+) points at (\d\.\d+)", capsys.readouterr().out)
    assert all(20 < float(points) < 60 for points, _ in told)
    fractions = [1 / 2, 1 / 4, 1 / 8, 1 / 16] if good_enough else [1 / 2, 3 / 4, 7 / 8, 15 / 16]
    expected = [job.smallest + (1 - job.smallest) * fraction for fraction in fractions]
    assert [float(size) for _, size in told] == pytest.approx(expected, abs=0.001)
    search = OmegaConf.load(directory / "search.yaml")
    assert (search.budget, search.constraint.budget) == (40 - 4 * 5, float(told[-1][1]))
    assert json.loads((directory / "best.json").read_text())["size_ratio"] <= search.constraint.budget
    assert {path.name for path in (directory / "sizes").iterdir()} == {f"{float(size):.3f}" for _, size in told}


def test_a_model_with_gradients_begins_with_the_closed_form(configure):
    search = compose_search(configure("target_size=0.6"), MODEL)
    assert [rule._target_ for rule in search.agent.rules] == ["agents.ClosedForm", "agents.UniformRank"]
    assert (search.factorisation.form, search.factorisation.weigh_rows) == ("pivoting", True)
    assert (search.granularity, search.reward.name) == ("matrix", "divergence")
    # One prediction, which takes minutes of a large model, serves the search space and the rule.
    rule = instantiate(search.agent.rules[0])
    assert (search.search_space.name, search.search_space.calibration) == ("allocated", rule.calibration)
    assert search.search_space.draws == rule.draws
    speech = {"root": "speech", "subset": "mine"}
    calibrate_on(search, speech)
    assert search.factorisation.calibration == search.agent.rules[0].calibration == speech
    assert search.search_space.calibration == speech
    assert "calibration" not in search.agent.rules[1]
    # What is asked for stays.
    other = "overrides=['search_space=allocated','search_space.calibration=dev','agent=closed_form']"
    search = compose_search(configure("target_size=0.6", other), MODEL)
    calibrate_on(search, speech)
    assert (search.search_space.calibration, search.agent.calibration) == ("dev", speech)
    search = compose_search(configure("target_size=0.6", "overrides=['search_space.count=30']"), MODEL)
    assert (search.search_space.name, search.search_space.count) == ("allocated", 30)
    search = compose_search(configure("target_size=0.6", "overrides=['search_space=log']"), MODEL)
    assert dict(search.search_space) == {"name": "log", "count": 16}


def test_speech_for_the_factors_serves_for_all_predictions(configure):
    speech = {"root": "/data", "subset": "train"}
    override = "overrides=['factorisation.calibration={root: /data, subset: train}']"
    search = compose_search(configure("target_size=0.6", override), MODEL)
    calibrate_on(search, "proxy")
    assert search.factorisation.calibration == search.search_space.calibration == speech
    assert search.agent.rules[0].calibration == speech


@pytest.mark.parametrize(
    ("override", "speech", "draws"),
    [
        ("search_space.calibration=calibration", "calibration", 1),
        ("search_space.draws=3", "calibration-large", 3),
        ("search_space=allocated", "calibration-large", 1),
        ("factorisation=svd", "calibration-large", 1),
    ],
)
def test_one_prediction_and_a_second_round_unless_overrides_say_otherwise(configure, override, speech, draws):
    search = compose_search(configure("target_size=0.6", f"overrides=['{override}']"), MODEL)
    assert (search.search_space.calibration, search.search_space.draws) == (speech, draws)
    alike = {(speech, draws), ("calibration-large", 1)}
    second_rounds = 2  # One for the search, and one for the size that it finds.
    assert predictions(search) == sum(number for _, number in alike) + second_rounds


def test_a_size_that_the_search_space_lacks_is_told_by_its_option():
    problem = make_problem(FakeEvaluator(), search_space={"name": "full", "count": 2})
    smallest = problem.size(problem.search_space.smallest)
    require_in_space(smallest, problem)
    require_in_space(None, problem)
    with pytest.raises(
        ValueError, match=r"target_size=0\.01 is out of reach: the search space's smallest configuration"
    ):
        require_in_space(0.01, problem)


def test_a_model_without_gradients_is_searched_on_even_ranks(configure):
    model = SimpleNamespace(layers=MODEL.layers)
    search = compose_search(configure("target_size=0.6"), model)
    assert (search.search_space.name, search.reward.name) == ("full", "accuracy")
    assert [rule._target_ for rule in search.agent.rules] == ["agents.UniformRank"]
    assert not search.factorisation.weigh_rows
    # Another option of the factors leaves this one as it is; whoever names it gets it.
    given = "overrides=['factorisation.damping=0.02']"
    assert not compose_search(configure("target_size=0.6", given), model).factorisation.weigh_rows
    given = "overrides=['++factorisation.weigh_rows=true']"
    assert compose_search(configure("target_size=0.6", given), model).factorisation.weigh_rows


def test_classes_are_known_by_what_they_are_not_by_their_import_paths():
    search = compose_config("search", ["agent=custom", "agent._target_=agents.closed_form.ClosedForm"])
    calibrate_on(search, "dev")
    assert search.agent == {"_target_": "agents.closed_form.ClosedForm", "calibration": "dev"}
    paths = [
        "shrinkml_env.compression.factorisations.PlainSVD",
        "shrinkml_env.compression.factorisations.ActivationAware",
    ]
    for path, fits in zip(paths, (False, True), strict=True):
        search = compose_config("search", ["factorisation=custom", f"factorisation._target_={path}"])
        assert compensates(search, MODEL) is fits
        calibrate_on(search, "dev")
        assert ("calibration" in search.factorisation) is fits


def test_settings_of_the_search_can_be_changed(configure):
    config = configure("target_size=0.6", "overrides=['agent=random','granularity=matrix','factorisation=svd']")
    directory = compress(config, prepare(config))
    record = json.loads((directory / "best.json").read_text())
    assert len(record["ranks"]) > 4
    assert record["factorisation"] == {"name": "svd", "form": "factors"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("budget=5", "overrides: budget=5: budget is decided by this command's options budget="),
        ("+model=las_small", "model is decided by this command's options model="),
        ("proxy=proxy", "overrides: proxy=proxy: proxy is decided by this command's options data= and utterances="),
        ("constraint=none", "overrides: constraint=none: the goal is a limit; choose a constraint that has one"),
        ("constraint.resource=macs", "overrides: constraint.resource=macs: the goal is a share of the parameters"),
    ],
)
def test_what_the_command_decides_is_no_override(configure, override, message):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        prepare(configure("target_size=0.6", f"overrides=['{override}']"))
    assert str(raised.value).count("overrides:") == 1


def write(path, samples, rate=16_000):
    path.unlink()
    soundfile.write(path, samples, rate)


def replace_audio(samples, rate=16_000):
    return lambda chapter: write(chapter / "12-5-0001.flac", samples, rate)


def replace_line(line):
    def change(chapter):
        path = chapter / "12-5.trans.txt"
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")

    return change


def wav_with_nan(chapter):
    (chapter / "12-5-0001.flac").unlink()
    soundfile.write(chapter / "12-5-0001.wav", np.full(8000, np.nan, np.float32), 16_000, subtype="FLOAT")


def empty_wav(chapter):
    (chapter / "12-5-0001.flac").unlink()
    soundfile.write(chapter / "12-5-0001.wav", np.zeros(0), 16_000)


def cut_wav(chapter):
    (chapter / "12-5-0001.flac").unlink()
    soundfile.write(chapter / "12-5-0001.wav", np.zeros(8000), 16_000)
    os.truncate(chapter / "12-5-0001.wav", 9000)


NOISE = 0.1 * np.random.default_rng(0).standard_normal((8000, 2))


def test_too_short_for_the_model(configure, data, monkeypatch):
    monkeypatch.setattr(TinyCTC, "shortest", 400, raising=False)
    write(data / "12" / "5" / "12-5-0001.flac", NOISE[:399, 0])
    with pytest.raises(
        ValueError, match="utterance '12-5-0001': 399 samples are too few for the model, which needs 400"
    ):
        prepare(configure("target_size=0.5"))
    write(data / "12" / "5" / "12-5-0001.flac", NOISE[:400, 0])
    prepare(configure("target_size=0.5"))


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda chapter: (chapter / "12-5-0001.flac").write_bytes(b"x" * 99), r"12-5-0001\.flac: not a readable"),
        (lambda chapter: os.truncate(chapter / "12-5-0001.flac", 9000), r"12-5-0001\.flac: not a readable"),
        (cut_wav, r"12-5-0001\.wav: cut off, 7044 bytes of its samples are missing"),
        (wav_with_nan, r"12-5-0001\.wav: holds samples that are NaN"),
        (empty_wav, r"12-5-0001\.wav: holds no sample"),
        (replace_audio(NOISE), r"12-5-0001\.flac: needs mono audio at 16000 Hz, has 2 channel\(s\) at 16000 Hz"),
        (replace_audio(NOISE[:, 0], 44_100), r"12-5-0001\.flac: needs mono audio .* has 1 channel\(s\) at 44100 Hz"),
        (replace_line("12-5-0001"), r"12-5\.trans\.txt, line 2: expected an utterance id and its text"),
        (replace_line("12-5-0001 ..."), r"transcript of 12-5-0001: no word of it is left: '\.\.\.'"),
        (replace_line("12-5-0001 CAFÉ"), r"transcript of 12-5-0001: 'É' is not a letter of this model"),
        (replace_line("12-5-0001 CAFE\u0301"), r"transcript of 12-5-0001: 'É' is not a letter of this model"),
        (replace_line("12-5-0000 AGAIN"), r"12-5\.trans\.txt, line 2: '12-5-0000' is listed twice"),
        (replace_line("12-5-0007 MORE"), r"12-5-0007\.flac: listed in 12-5\.trans\.txt, line 2, but missing"),
        (lambda chapter: (chapter / "12-5-0001.flac").unlink(), r"12-5-0001\.flac: listed in .* but missing"),
        (replace_line(""), r"12-5-0001\.flac: no \*\.trans\.txt beside it says what is spoken"),
        (lambda chapter: (chapter / "12-5.trans.txt").unlink(), r"12-5-0000\.flac: no \*\.trans\.txt beside it"),
        (lambda chapter: (chapter / "12-5.trans.txt").write_bytes(b"12-5-0000 \xff\n"), r"12-5\.trans\.txt: not a"),
    ],
)
def test_bad_data_is_named_and_nothing_left_behind(configure, data, mistake, message):
    mistake(data / "12" / "5")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare(configure("target_size=0.5"))
    assert not (data.parent / "outputs").exists()


def test_data_that_the_model_does_not_understand(configure, data):
    for transcript in data.glob("*/*/*.trans.txt"):
        ids = [line.partition(" ")[0] for line in transcript.read_text().splitlines()]
        transcript.write_text("".join(f"{name} WAT IS DIT VOOR TAAL\n" for name in ids))
    with pytest.raises(ValueError, match=r"the original model gets \d+ % of the words wrong.*'wat is dit voor taal'"):
        prepare(configure("target_size=0.5"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "give either target_size="),
        (["target_size=0.5", "max_wer_increase=1"], "give either target_size="),
        (["target_size=0.5", "data=null"], "data=FOLDER is missing"),
        (["target_size=0.5", "data=nowhere"], "data=nowhere: no such folder"),
        (["target_size=0.5", "model=nowhere"], "'nowhere' is neither a shipped model"),
        (["target_size=0.01"], r"target_size=0\.01 is out of reach: .* rank 1 0\.\d+ of the parameters"),
        (["max_wer_increase=1", "budget=7"], "budget must be at least 8 where the size is looked for, got 7"),
        (["target_size=0.5", "budget=0"], "budget must be a whole number of at least 1"),
        (["target_size=0.5", "overrides=['reward=vector']"], "scalar reward"),
    ],
)
def test_what_is_asked_for_makes_sense(configure, overrides, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare(configure(*overrides))


def test_the_folder_above_and_another_librarys_model(configure, data):
    with pytest.raises(ValueError, match=r"no utterance in it; .* did you mean one of speech in it"):
        prepare(configure("target_size=0.5", f"data={data.parent}"))
    (data.parent / "model" / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(ValueError, match=r"model of Hugging Face's: name it hf:.*model"):
        prepare(configure("target_size=0.5"))


@pytest.mark.parametrize(("speakers", "note"), [(1, "too few speakers"), (2, "No voice of test is in another part")])
def test_few_speakers(configure, data, speakers, note):
    for speaker in ("14", "13", "12")[: 4 - speakers]:
        shutil.rmtree(data / speaker)
    assert note in prepare(configure("target_size=0.5")).data_note


@pytest.mark.slow
def test_as_it_is_typed(data):
    command = ["-m", "experiments.compress", f"model={data.parent / 'model'}", f"data={data}"]
    wrong = python(*command, "target_size=2")
    assert (wrong.returncode, wrong.stderr) == (2, "target_size must be a number above 0 and below 1 or null, got 2\n")
    options = ["imports=[tests.helpers.models]", "target_size=0.6", "budget=8", f"outputs={data.parent / 'outputs'}"]
    done = python(*command, *options)
    assert done.returncode == 0, done.stderr
    (directory,) = (data.parent / "outputs").iterdir()
    assert f"model, measurements and report: {directory}" in done.stdout


def test_speakers_of_test_that_are_trained_on_are_told(data):
    speech = SpeechFolder(data.parent, data.name)
    assert speaker_overlap(None, {"11"}) == ""
    assert speaker_overlap(speech, {"21", "22"}) == " No speaker of test is in the speech that is trained on."
    assert speaker_overlap(speech, {"21", "13", "11"}).startswith(" 2 of test's 3 speakers are, by name, in the speech")


@pytest.mark.slow
def test_a_run_keeps_its_sets_if_the_folder_of_speech_has_changed(configure, data):
    config = configure("target_size=0.6")
    directory = compress(config, prepare(config))
    sets = {path.name: path.read_bytes() for path in directory.glob("*.txt")}
    assert {"calibration.txt", "proxy.txt", "dev.txt", "test.txt"} <= set(sets)
    shutil.rmtree(sorted(path for path in data.iterdir() if path.is_dir())[0])
    with pytest.raises(ValueError, match=r"holds other utterances than when this run was begun, whose \w+ set"):
        compress(config, prepare(config))
    assert {path.name: path.read_bytes() for path in directory.glob("*.txt")} == sets


@pytest.mark.slow
def test_what_is_found_is_fitted_anew_if_that_is_better_on_dev(tmp_path):
    few = {"root": str(SHIPPED_SPEECH), "subset": "dev", "limit": 4}
    search = compose_config("search", ["agent=closed_form", "reward=divergence", "factorisation=pivoting"])
    search.granularity, search.budget, search.proxy, search.dev, search.test = "matrix", 1, few, few, few
    search.dense = ["encoder.[2-9]", "decoder.*"]  # Each matrix takes half a second.
    search.constraint = {"name": "check", "budget": 0.8, "resource": "size"}
    calibrate_on(search, few)
    env = make_environment(search, Ledger(budget=1))
    result = run_search(env, make_agent(search.agent, env), dev=few, test=few, progress_bar=False)
    problem = search_problem(env)
    fitted, note = compensate(search, problem, result)
    # The same speech everywhere, so that it is better for sure.
    was, now = result.sets["dev"].wer_after, fitted.sets["dev"].wer_after
    assert now < was
    assert note == f"Compensation lowered the WER on dev from {100 * was:.2f} % to {100 * now:.2f} %."
    assert (fitted.ranks, fitted.size_ratio) == (result.ranks, result.size_ratio)
    measured = measure(fitted.model, load_utterances(few))
    assert fitted.test_edits == (result.test_edits[0], measured.edits)
    assert fitted.wer_increase.value == pytest.approx(measured.wer - result.sets["test"].wer_before)
    # A copy of the record is enough to make the same model again.
    entries = record_entries(search, "title", problem)
    path = tmp_path / "best.json"
    path.write_text(json.dumps(replace(fitted, config=fitted.config | entries).to_json()))
    assert validate_ranks(path) == []
    # Equal on dev is not better.
    again, note = compensate(search, problem, fitted)
    assert again is fitted
    assert note.startswith("Compensation did not help: ")
    assert note.endswith("The model is unchanged.")
    # One utterance says nothing about others.
    search.factorisation.calibration = {**few, "limit": 1}
    again, note = compensate(search, problem, fitted)
    assert again is fitted
    assert note.startswith("No compensation: it needs two or more utterances")


def recordings(samples):
    """A folder of recordings of these lengths by ten speakers in turn."""

    class Recordings(list):
        folder = "recordings"
        num_samples = tuple(samples)
        speakers = tuple(str(index % 10) for index in range(len(samples)))

    return Recordings(samples)


def utterances(**limits):
    return OmegaConf.create(
        {"seed": 0, "utterances": {"calibration": None, "proxy": None, "dev": 50, "test": 60} | limits}
    )


@pytest.mark.parametrize(
    ("limits", "predicts", "expected"),
    [
        ({}, True, (72, 16)),
        ({}, False, (72, 72)),
        ({"calibration": 40}, False, (40, 40)),
        ({"proxy": 5}, True, (72, 5)),
        ({"proxy": 90}, True, (72, 90)),
    ],
)
def test_a_few_of_the_calibration_utterances_are_searched_on(limits, predicts, expected):
    parts = divide(recordings([16_000] * 400), utterances(**limits), None, predicts)
    sizes = {name: len(indices) for name, indices in parts.items()}
    assert (sizes["calibration"], sizes["proxy"], sizes["dev"], sizes["test"]) == (*expected, 50, 60)
    smaller, larger = sorted((set(parts["calibration"]), set(parts["proxy"])), key=len)
    assert smaller <= larger
    assert len(set.union(*map(set, parts.values()))) == max(expected) + 50 + 60


def test_a_model_with_a_window_calibrates_and_searches_on_utterances_that_fill_it():
    """Every third utterance fills half of a window of 100 samples, and every seventh is longer than it."""
    samples = [120 if index % 7 == 0 else 60 + index % 5 if index % 3 == 0 else 10 for index in range(700)]
    parts = divide(recordings(samples), utterances(calibration=20), 100, predicts=True)
    assert {name: len(indices) for name, indices in parts.items()} == {
        "calibration": 20,
        "proxy": 16,
        "dev": 50,
        "test": 60,
    }
    assert all(50 <= samples[index] <= 100 for name in ("calibration", "proxy") for index in parts[name])
    assert all(samples[index] <= 100 for indices in parts.values() for index in indices)
    assert min(samples[index] for index in parts["dev"]) == 10
    # Where there are too few, the longest ones.
    short = [index % 40 for index in range(700)]
    among = divide(recordings(short), utterances(), None, predicts=True)["calibration"]
    longest = divide(recordings(short), utterances(), 100, predicts=True)["calibration"]
    assert min(short[index] for index in longest) > 20 > min(short[index] for index in among)
    # Word errors can be counted in utterances of any length.
    assert max(samples[index] for index in divide(recordings(samples), utterances(), 100, predicts=False)["dev"]) == 120
    with pytest.raises(ValueError, match=r"recordings: every utterance is longer than the 0\.0003125 s that"):
        divide(recordings([6] * 10), utterances(), 5, predicts=True)
    with pytest.raises(
        ValueError,
        match=r"recordings: 2 utterances cannot be split in 3 parts: give more \(without 8 that are longer than",
    ):
        divide(recordings([6] * 8 + [5] * 2), utterances(), 5, predicts=True)
