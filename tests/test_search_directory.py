"""The directory of a search: what it holds, when it resumes, and whose it is."""

import json
from contextlib import nullcontext
from pickle import PicklingError

import gymnasium as gym
import pytest
import soundfile
from stable_baselines3 import PPO

from experiments.summary import table
from experiments.validate import validate, validate_ranks
from shrinkml_env import load_compressed, load_model, run_search, save_compressed
from shrinkml_env.data import Utterance
from shrinkml_env.envs.registration import make_env
from shrinkml_env.envs.wrapped import arguments_of, search_problem
from shrinkml_env.evaluation.ledger_file import read_ledger
from shrinkml_env.search import explore
from shrinkml_env.search_directory import provenance
from tests.helpers.las import MODEL as LAS
from tests.helpers.las import noise
from tests.helpers.learners import ppo
from tests.helpers.models import half_recognised
from tests.helpers.searches import DEV, MODEL, PROXY, TEST, Sampler, make, seeded


@pytest.mark.parametrize("agent", [Sampler, ppo])
def test_a_killed_search_resumes_to_the_same_end(agent, tmp_path):
    def run(directory):
        env = make(8)
        return run_search(env, agent(env), dev=DEV, test=TEST, directory=directory, progress_bar=False)

    whole = run(tmp_path / "whole")
    ledger, best = ((tmp_path / "whole" / name).read_bytes() for name in ("evaluations.jsonl", "best.json"))
    (tmp_path / "killed").mkdir()
    lines = ledger.splitlines(keepends=True)
    # A kill in the middle of a line leaves this.
    (tmp_path / "killed" / "evaluations.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:20])
    again = run(tmp_path / "killed")
    assert (tmp_path / "killed" / "evaluations.jsonl").read_bytes() == ledger
    assert (tmp_path / "killed" / "best.json").read_bytes() == best
    assert again.to_json() == whole.to_json() == json.loads(best)


def test_what_a_directory_holds(tmp_path):
    env = make()
    told = {"title": "mine"}
    result = run_search(env, ppo(env), dev=DEV, test=TEST, directory=tmp_path / "run", config=told, progress_bar=False)
    folder = tmp_path / "run"
    assert json.loads((folder / "best.json").read_text()) == result.to_json()
    assert result.to_json()["title"] == "mine"
    assert [dict(e.ranks) for e in read_ledger(folder / "evaluations.jsonl")[1]] == [t.ranks for t in result.history]
    waveforms = [utterance.waveform for utterance in TEST]
    for name, model in (("original", result.original), ("compressed", result.model)):
        assert load_model(str(folder / name)).transcribe(waveforms) == model.transcribe(waveforms)
    assert PPO.load(folder / "agent").n_steps == 8


def test_a_second_search_saves_no_agent_that_has_not_learned(tmp_path):
    class Saves(Sampler):
        def save(self, path):
            path.write_text("saved")

    env = make()
    agent = Saves(env)
    first = run_search(env, agent, dev=DEV, test=TEST, directory=tmp_path, progress_bar=False)
    (tmp_path / "agent").unlink()
    again = run_search(env, agent, dev=DEV, test=TEST, directory=tmp_path, progress_bar=False)
    assert again.to_json() == first.to_json()
    assert not (tmp_path / "agent").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "holds a search with agent.seed 0, not 1: give another directory"),
        ({"reward": {"name": "linear", "size_weight": 0.3}}, "reward.size_weight 0.2, not 0.3: "),
        ({"reward": "accuracy"}, "reward.name 'Linear', not 'Accuracy': "),
        ({"reward": lambda evaluation, baseline: 0.0}, "reward.name 'Linear', not '.*<lambda>'"),
        ({"action": "energy"}, "action.name 'Continuous', not 'Energy'"),
        ({"constraint": {"name": "check", "budget": 0.5}}, "constraint.name 'Unconstrained', not 'Budget'"),
        ({"search_space": {"name": "full", "count": 5}}, "search space '4 layers, .*', not '4 layers, "),
        ({"proxy": DEV}, "records another model, utterance set"),
    ],
)
def test_a_directory_of_another_search_is_refused(change, message, tmp_path):
    env, agent = seeded(budget=2)
    run_search(env, agent, dev=DEV, test=TEST, directory=tmp_path, progress_bar=False)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.suffix != ".lock"}
    env, agent = seeded(budget=2, **change)
    with pytest.raises(ValueError, match=message):
        run_search(env, agent, dev=DEV, test=TEST, directory=tmp_path, progress_bar=False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.suffix != ".lock"} == before


def test_a_search_goes_on_with_a_larger_budget(tmp_path):
    results = []
    for budget in 2, 4:
        env, agent = seeded(budget=budget)
        results.append(run_search(env, agent, dev=DEV, test=TEST, directory=tmp_path, progress_bar=False))
    ranks = [[trial.ranks for trial in result.history] for result in results]
    assert ranks[0] == ranks[1][:2]
    assert len(ranks[1]) == 4


def test_a_smaller_budget_does_not_replace_a_result(tmp_path):
    for budget in 4, 2:
        env, agent = seeded(budget=budget)
        told = pytest.raises(ValueError, match="the result of 4 evaluations, more than the budget of 2: give a budget")
        with told if budget == 2 else nullcontext():
            run_search(env, agent, dev=DEV, test=TEST, directory=tmp_path, progress_bar=False)
    assert json.loads((tmp_path / "best.json").read_text())["evaluations"] == 4


def test_a_damaged_identity_is_told(tmp_path):
    (tmp_path / "search.json").write_text("[")
    env, agent = seeded()
    with pytest.raises(ValueError, match=r"search.json is damaged \(.*\): give another directory"):
        run_search(env, agent, dev=DEV, test=TEST, directory=tmp_path, progress_bar=False)


def test_a_directory_is_taken_until_the_result_is_written(tmp_path):
    class Late(Sampler):
        """Saved before the record, which says that the search is finished, while the directory is taken."""

        def save(self, path):
            assert not (path.parent / "best.json").exists()
            other = make()
            with pytest.raises(ValueError, match="another run is writing it") as raised:
                run_search(other, Late(other), dev=DEV, test=TEST, directory=path.parent, progress_bar=False)
            path.write_text(str(raised.value))

    env = make()
    result = run_search(env, Late(env), dev=DEV, test=TEST, directory=tmp_path, progress_bar=False)
    assert result.notes == ()
    assert "evaluations.jsonl" in (tmp_path / "agent").read_text()
    assert not env.unwrapped.problem.ledger._file.is_open


@pytest.mark.parametrize("error", [OSError("the disk is full"), TypeError("cannot pickle"), PicklingError("no")])
def test_an_agent_that_cannot_be_saved_loses_no_result(error, tmp_path):
    class Unsaved(Sampler):
        def save(self, path):
            raise error

    env = make()
    result = run_search(env, Unsaved(env), dev=DEV, test=TEST, directory=tmp_path, progress_bar=False)
    assert result.notes == (f"The agent could not be saved: {type(error).__name__}: {error}",)
    assert json.loads((tmp_path / "best.json").read_text()) == result.to_json()
    load_compressed(tmp_path / "compressed")


def test_a_search_that_is_killed_while_its_agent_is_saved_resumes(tmp_path):
    class Killed(Sampler):
        def save(self, path):
            raise KeyboardInterrupt

    class Saved(Killed):
        def save(self, path):
            path.write_text("saved")

    Saved.__name__ = Saved.__qualname__ = "Killed"
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder, kind in (whole, Saved), (broken, Killed), (broken, Saved):
        env = make()
        with pytest.raises(KeyboardInterrupt) if kind is Killed else nullcontext():
            run_search(env, kind(env), dev=DEV, test=TEST, directory=folder, progress_bar=False)
        assert (folder / "best.json").exists() is (kind is Saved)
    for name in ("best.json", "evaluations.jsonl", "agent"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()


def test_a_ledger_with_a_file_of_its_own_is_told(tmp_path):
    env = make(ledger={"budget": 3, "path": tmp_path / "mine.jsonl"})
    with pytest.raises(ValueError, match=r"mine.jsonl already.*leave out the ledger's path or the directory"):
        run_search(env, Sampler(env), dev=DEV, test=TEST, directory=tmp_path / "run", progress_bar=False)


def test_the_record_says_how_to_measure_a_result_anew(tmp_path):
    folder, factorisation = tmp_path / "model", {"name": "activation_aware", "damping": 0.02}
    save_compressed(MODEL, folder)
    speech = {"root": str(tmp_path), "subset": "speech"}
    env = make(model=str(folder), proxy=PROXY, factorisation=factorisation)
    record = run_search(env, Sampler(env), dev=DEV, test=TEST, progress_bar=False).to_json()
    assert (record["model"], record["factorisation"]) == (str(folder), factorisation)
    assert record["granularity"] == "layer"
    assert record["settings"]["reward"] == "Linear(size_weight=0.2)"
    assert record["settings"]["agent"] == "Sampler(seed=0)"
    # Utterances that were given as objects have no name to be read again by.
    assert "utterances" not in record
    assert provenance(make(), Sampler(env), speech, "test").get("model") is None
    named = gym.make("ShrinkMLTabular-v0", ledger={"budget": 1})
    assert provenance(named, Sampler(named), speech, "test")["utterances"] == {
        "proxy": "proxy",
        "dev": speech,
        "test": "test",
    }


@pytest.mark.parametrize("make_one", [gym.make, gym.make_vec])
def test_the_record_of_version_1_is_of_its_own_parts(make_one):
    spoken = [Utterance(str(number), "", waveform, "call martin") for number, waveform in enumerate(noise(9000, 14000))]
    env = make_one(
        "ShrinkML-v1", size=0.8, model=LAS, calibration=spoken, proxy=spoken, factorisation="svd", cache=None
    )
    record = provenance(env, Sampler(env), "dev", "test")
    assert (record["granularity"], record["factorisation"]) == ("matrix", {"name": "svd"})
    arguments = arguments_of(env)
    assert (arguments["action"], arguments["reward"], arguments["workers"]) == ("level", "divergence", 1)
    assert arguments["constraint"] == {"name": "shift", "budget": 0.8}
    assert make_env(**arguments).problem.candidates == search_problem(env).candidates


def test_a_spent_budget_is_no_way_into_anothers_directory(tmp_path):
    env = make(3)
    run_search(env, Sampler(env), dev=DEV, test=TEST, directory=tmp_path, progress_bar=False)
    before = (tmp_path / "evaluations.jsonl").read_bytes()
    begun = make(4, reward="harmonic")
    begun.unwrapped.problem.evaluate({})
    with pytest.raises(ValueError, match=r"holds a search with reward\.name 'Linear', not 'Harmonic'"):
        run_search(begun, Sampler(begun), dev=DEV, test=TEST, directory=tmp_path, progress_bar=False)
    other = make(3, reward="harmonic")
    agent = Sampler(other)
    explore(other, agent)
    with pytest.raises(ValueError, match=r"holds a search with reward\.name 'Linear', not 'Harmonic'"):
        run_search(other, agent, dev=DEV, test=TEST, directory=tmp_path, progress_bar=False)
    assert (tmp_path / "evaluations.jsonl").read_bytes() == before
    run_search(other, agent, dev=DEV, test=TEST, directory=tmp_path / "own", progress_bar=False)
    described = json.loads((tmp_path / "own" / "search.json").read_text())
    assert (described["reward"]["name"], described["agent"]) == ("Harmonic", None)
    # Whoever goes on there is its agent.
    longer = make(4, reward="harmonic")
    run_search(longer, Sampler(longer), dev=DEV, test=TEST, directory=tmp_path / "own", progress_bar=False)
    assert json.loads((tmp_path / "own" / "search.json").read_text())["agent"]["name"] == "Sampler"


def test_the_commands_read_the_directory_of_a_library_run(tmp_path):
    sets, model = {}, tmp_path / "model"
    save_compressed(MODEL, model)
    for seed, name in enumerate(("proxy", "dev", "test")):
        folder = tmp_path / "speech" / name / "1" / "1"
        folder.mkdir(parents=True)
        spoken = half_recognised(MODEL, 3, seed)
        for index, utterance in enumerate(spoken):
            soundfile.write(folder / f"1-1-{index}.wav", utterance.waveform.numpy(), 16000)
        lines = [f"1-1-{index} {utterance.text.upper()}" for index, utterance in enumerate(spoken)]
        (folder / "1-1.trans.txt").write_text("\n".join(lines))
        sets[name] = {"root": tmp_path / "speech", "subset": name}
    env = make(model=str(model), proxy=sets["proxy"], budget=2)
    run = tmp_path / "runs" / "mine"
    result = run_search(env, Sampler(env), sets["dev"], sets["test"], directory=run, progress_bar=False)
    assert validate(run) == []
    assert validate_ranks(run / "best.json") == []
    row = table(run.parent).iloc[-1]
    assert (row["run"], row["found by"]) == ("mine", "Sampler(seed=0), Linear(size_weight=0.2)")
    assert row["test WER %"] == f"{100 * result.wer['test']:.2f}"
