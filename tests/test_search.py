"""Whole searches on a small recogniser, as they are typed in a notebook."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from mo_gymnasium.wrappers import LinearReward
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

import shrinkml_env
from shrinkml_env import BudgetExhausted, Ledger, load_compressed, run_search
from shrinkml_env.envs.vector import VectorShrinkEnv
from shrinkml_env.envs.wrapped import episode_length, search_problem
from shrinkml_env.evaluation import word_edits
from shrinkml_env.evaluation.intervals import wer_increase
from shrinkml_env.sb3 import BudgetCallback, ShrinkVecEnv
from shrinkml_env.search import choose, explore
from tests.helpers.fake_evaluator import FakeEvaluator, make_fake_env
from tests.helpers.learners import ppo
from tests.helpers.searches import DEV, MODEL, PROXY, TEST, Sampler, make, seeded


@pytest.mark.parametrize("agent", [Sampler, ppo])
def test_what_is_chosen_measured_and_made(agent):
    env = make()
    result = run_search(env, agent(env), dev=DEV, test=TEST, finalists=3, progress_bar=False)
    problem = env.unwrapped.problem
    assert result.history == problem.history
    assert result.evaluations == len(result.history) == 6
    # The best on dev, by the reward's own formula, of the three best on proxy.
    dev, test = (problem.evaluator.on(part) for part in (DEV, TEST))

    def worth(evaluation, baseline):
        return -(evaluation.wer - baseline.wer) - 0.2 * evaluation.size_ratio

    finals = sorted(result.history, key=lambda trial: -trial.reward)[:3]
    best = max(finals, key=lambda trial: worth(dev.evaluate(trial.ranks), dev.baseline))
    assert result.ranks == best.ranks
    assert result.size_ratio == best.evaluation.size_ratio
    after, before = test.evaluate(best.ranks), test.baseline
    assert result.wer == {"proxy": best.evaluation.wer, "dev": dev.evaluate(best.ranks).wer, "test": after.wer}
    assert result.rewards["test"] == pytest.approx(worth(after, before))
    assert result.wer_increase == wer_increase(after.edits, before.edits, before.words)
    edits, words = sum(after.edits), sum(after.words)
    assert (result.sets["test"].edits_after, result.sets["test"].words) == (edits, words)
    # The model is the one that was measured.
    model = result.model
    heard = model.transcribe([utterance.waveform for utterance in TEST])
    assert shrinkml_env.count_parameters(model) == result.params[1] == after.params
    assert sum(word_edits(u.text.lower(), h)[0] for u, h in zip(TEST, heard, strict=True)) == edits


def test_saves_what_loads_by_itself(tmp_path):
    env = make()
    result = run_search(env, Sampler(env), dev=DEV, test=TEST, progress_bar=False)
    result.save(tmp_path / "small")
    waveforms = [utterance.waveform for utterance in TEST]
    assert load_compressed(tmp_path / "small").transcribe(waveforms) == result.model.transcribe(waveforms)
    assert (tmp_path / "small" / "model.safetensors").stat().st_size == result.file_bytes[1]


def test_a_result_is_looked_at():
    env = make()
    result = run_search(env, Sampler(env), dev=DEV, test=TEST, progress_bar=False)
    text, html = repr(result), result._repr_html_()
    for shown in (f"{100 * result.wer['test']:.2f} %", f"{result.size_ratio:.3f}", *result.ranks):
        assert shown in text
        assert shown in html
    assert html.count("<table") == 2
    table = result.layer_table()
    assert list(table["layer"]) == list(result.ranks)
    shown = dict(zip(table["layer"], table["rank"], strict=True))
    dense = {layer.name: layer.max_rank for layer in result.layers}
    assert shown == {name: "dense" if rank == dense[name] else str(rank) for name, rank in result.ranks.items()}


@pytest.mark.parametrize("wrapped", [False, True])
def test_several_environments_at_once(wrapped):
    envs = gym.make_vec("ShrinkML-v0", num_envs=3, model=MODEL, proxy=PROXY, ledger={"budget": 7}, cache=None)
    adapted = ShrinkVecEnv(envs)
    result = run_search(adapted if wrapped else envs, ppo(adapted), dev=DEV, test=TEST, progress_bar=False)
    assert result.evaluations == 7  # which no number of whole steps of three makes


@pytest.mark.slow
def test_on_a_table_the_choice_is_measured_for_real():
    env = gym.make("ShrinkMLTabular-v0", ledger={"budget": 30})

    speech = shrinkml_env.load_utterances("dev")[:2]
    result = run_search(env, Sampler(env), dev=speech, test=speech, finalists=2, progress_bar=False)
    assert result.evaluations == 30
    assert result.ranks in [trial.ranks for trial in result.history]
    assert result.wer["dev"] == result.wer["test"]
    assert shrinkml_env.count_parameters(result.model) == result.params[1]
    # The table holds sums over the 72 utterances of proxy.
    assert (result.sets["proxy"].utterances, result.sets["dev"].utterances) == (72, 2)
    assert result.utterance_passes == 30 * 72


def test_an_agent_that_repeats_itself_ends():
    class Stubborn(Sampler):
        def learn(self, total_timesteps):
            self.steps = total_timesteps
            self.env.reset()
            for _ in range(total_timesteps):
                if self.env.step(np.zeros(1, np.float32))[2]:
                    self.env.reset()

    env = make_fake_env(ledger=Ledger(budget=5))
    agent = Stubborn(env)
    assert explore(env, agent).ledger.count == 1
    assert agent.steps == 20 * 5 * episode_length(env) == 20 * 5 * len(env.layers)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"finalists": 0}, ValueError, "finalists must be a whole number of at least 1, got 0"),
        ({"finalists": 1.5}, ValueError, "finalists must be a whole number"),
        ({"dev": "nowhere"}, ValueError, "no utterance set is named 'nowhere'"),
        ({"agent": PPO}, TypeError, "agent must .* the class PPO: make an agent of it"),
        ({"agent": object()}, TypeError, r"agent must have a method learn\(total_timesteps\)"),
        ({"env": gym.make("CartPole-v1")}, TypeError, "env must be a ShrinkML environment, .* got "),
        ({"env": make_fake_env()}, ValueError, r'needs a budget of evaluations, .*ledger=\{"budget": 200\}.*got None'),
        ({"env": make_fake_env(ledger=Ledger(budget=0))}, ValueError, "at least 1: .*got 0"),
        ({"directory": ""}, ValueError, "directory must be the name of a folder, got ''"),
        ({"directory": __file__}, ValueError, "folder: .*test_search.py is a file"),
        ({"callback": print}, ValueError, "callback: the method learn of Sampler takes none"),
        ({"env": make_fake_env(reward="vector", ledger=Ledger(budget=1))}, ValueError, "needs a scalar reward"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_made(change, error, message, tmp_path):
    change = dict(change)
    env = change.pop("env", None) or make()
    arguments = {"agent": Sampler(env), "dev": DEV, "test": TEST, "directory": tmp_path / "run"} | change
    with pytest.raises(error, match=message):
        run_search(env, **arguments)
    assert not (tmp_path / "run").exists()


def test_an_agent_of_another_environment_is_told():
    env, other = make(), make_fake_env()
    with pytest.raises(ValueError, match=r"Sampler has measured nothing: .* was the agent made with it"):
        run_search(env, Sampler(other), dev=DEV, test=TEST, progress_bar=False)
    assert search_problem(env).history == ()


def test_a_shared_ledger_is_counted_once():
    envs = ShrinkVecEnv(VectorShrinkEnv(make_fake_env(ledger=Ledger(budget=4)), 2))
    values = []

    class Reads(BaseCallback):
        def _on_step(self):
            values.append(self.logger.name_to_value.get("evaluation/count", 0))
            return True

    ppo(envs, batch_size=16).learn(1000, callback=[BudgetCallback(), Reads()])
    assert max(values) == 4


def test_a_scalarised_vector_reward_is_searched():
    env = LinearReward(make_fake_env(reward="vector", ledger=Ledger(budget=3)), weight=np.array([1.0, 0.2]))
    ppo(env).learn(1000, callback=BudgetCallback())
    assert env.unwrapped.problem.ledger.count == 3


def test_what_meets_no_constraint_is_told():
    env = make(constraint={"name": "check", "budget": 0.05})
    result = run_search(env, Sampler(env), dev=DEV, test=TEST, progress_bar=False)
    assert result.notes == ("Nothing that the search has tried meets the constraint.",)
    assert result.notes[0] in repr(result)
    assert result.notes[0] in result._repr_html_()


def test_a_reward_that_fails_on_dev_is_told():
    def reward(evaluation, baseline):
        return 0.0 if evaluation.words == proxy.words else float("nan")

    env = make(reward=reward)
    proxy = env.unwrapped.problem.baseline
    with pytest.raises(ValueError, match=r"gave nan at a WER of"):
        run_search(env, Sampler(env), dev=DEV[:3], test=TEST, progress_bar=False)


def test_a_config_that_is_no_json_is_told_before_the_search():
    env = make()
    with pytest.raises(TypeError, match="not JSON serializable"):
        run_search(env, Sampler(env), dev=DEV, test=TEST, config={"x": np.float32(1)})
    assert env.unwrapped.problem.history == ()


def test_a_spent_budget_gives_the_result_of_what_was_measured():
    """Whoever has measured it, with an agent that ends by a callback as well."""
    env, agent = seeded(budget=3)
    explored = explore(env, agent)
    result = run_search(env, agent, dev=DEV, test=TEST, progress_bar=False)
    assert result.history == explored.history
    assert len(result.history) == 3


def test_what_fails_before_any_callback_is_told():
    class Fails(PPO):
        def learn(self, *arguments, **options):
            raise RuntimeError("no data")

    env = make()
    with pytest.raises(RuntimeError, match="no data"):
        run_search(env, Fails("MlpPolicy", env), dev=DEV, test=TEST, progress_bar=False)


def test_the_budget_of_another_environment_does_not_end_a_search():
    class TwoEnvs(Sampler):
        def learn(self, total_timesteps):
            Sampler(make(budget=1)).learn(total_timesteps)

    env = make()
    with pytest.raises(BudgetExhausted, match="the budget of 1 unique evaluations is spent"):
        run_search(env, TwoEnvs(env), dev=DEV, test=TEST, progress_bar=False)


def test_training_the_result_changes_neither_original_nor_environment():
    env = make()
    result = run_search(env, Sampler(env), dev=DEV, test=TEST, progress_bar=False)
    before = {name: tensor.clone() for name, tensor in MODEL.state_dict().items()}
    with torch.no_grad():
        for parameter in result.model.parameters():
            parameter.add_(1)
    for model in (MODEL, result.original, search_problem(env).evaluator.model):
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_function_as_callback_ends_an_agent_that_takes_one():
    class Calls(Sampler):
        def learn(self, total_timesteps, callback=None):
            while callback():
                super().learn(len(self.env.layers))

    env = make_fake_env(ledger=Ledger(budget=5))
    rounds = iter([True, False])
    assert explore(env, Calls(env), lambda: next(rounds)).ledger.count == 1


def test_finalists_are_feasible_where_anything_is():
    env = make_fake_env(constraint={"name": "check", "budget": 0.5}, ledger=Ledger(budget=20))
    problem = explore(env, Sampler(env))
    feasible = [trial for trial in problem.history if trial.feasible]
    assert 0 < len(feasible) < 20
    dev = FakeEvaluator()
    chosen = choose(problem, dev, 20, progress_bar=False)
    assert dev.measured == [trial.ranks for trial in problem.ranking if trial.feasible]
    assert chosen.ranks == max(feasible, key=lambda trial: trial.reward).ranks


def test_where_nothing_is_feasible_the_best_of_all_are_finalists():
    env = make_fake_env(constraint={"name": "check", "budget": 0.1}, ledger=Ledger(budget=5))
    problem = explore(env, Sampler(env))
    dev = FakeEvaluator()
    chosen = choose(problem, dev, 3, progress_bar=False)
    assert len(dev.measured) == 3
    assert chosen.ranks == max(problem.history, key=lambda trial: trial.reward).ranks


@pytest.mark.parametrize("size", [0.001, 0.95])
def test_extra_finalists_are_measured_on_dev(size):
    """Those of the search come first; what is infeasible is measured only where nothing else is there."""
    env = make_fake_env(constraint={"name": "check", "budget": size}, ledger={"budget": 3})
    problem = env.problem
    for rank in (1, 2, 3):
        problem.evaluate({layer.name: rank for layer in problem.layers})
    half = {layer.name: max(1, layer.break_even // 2) for layer in problem.evaluator.layers}
    dense = {layer.name: layer.max_rank for layer in problem.evaluator.layers}
    dev = FakeEvaluator()
    chosen = choose(problem, dev, 2, [dense, half], progress_bar=False)
    best = [trial.ranks for trial in problem.ranking[:2]]
    assert dev.measured == ([*best, half] if size == 0.95 else [*best, dense, half])
    assert chosen.wer == dev.baseline.wer


def test_an_extra_finalist_may_be_the_result(tmp_path):
    env = make(budget=2, reward=lambda evaluation, baseline: baseline.wer - evaluation.wer)
    problem = env.unwrapped.problem
    dense = {layer.name: layer.max_rank for layer in problem.layers}
    smallest = {layer.name: 1 for layer in problem.layers}
    agent = SimpleNamespace(learn=lambda total_timesteps: problem.evaluate(smallest))
    options = {"dev": DEV, "test": TEST, "directory": tmp_path, "progress_bar": False}
    result = run_search(env, agent, extra_finalists=[dense], **options)
    assert result.ranks == dense
    assert [trial.ranks for trial in result.history] == [smallest]
    assert json.loads((tmp_path / "best.json").read_text())["ranks"] == dense


def test_an_extra_finalist_need_not_be_a_candidate(tmp_path):
    env = make(
        budget=2,
        search_space={"name": "full", "count": 2},
        reward=lambda evaluation, _: float(dict(evaluation.ranks) != env.unwrapped.problem.search_space.smallest),
    )
    problem = env.unwrapped.problem
    between = {
        layer.name: next(rank for rank in range(layer.break_even, 0, -1) if rank not in candidates)
        for layer, candidates in problem.search_space.choices
        if len(candidates) <= layer.break_even
    }
    assert between
    agent = SimpleNamespace(learn=lambda total_timesteps: problem.evaluate(problem.search_space.smallest))
    options = {"dev": DEV, "test": TEST, "directory": tmp_path, "progress_bar": False}
    result = run_search(env, agent, extra_finalists=[between], **options)
    assert {name: result.ranks[name] for name in between} == between
    assert result.size_ratio == problem.size(between)


def test_an_extra_finalist_must_exist():
    env = make()
    with pytest.raises(ValueError, match="nonsense"):
        run_search(env, Sampler(env), dev=DEV, test=TEST, extra_finalists=[{"nonsense": 3}], progress_bar=False)
    assert env.unwrapped.problem.history == ()


def test_results_are_compared_by_identity():
    env = make(budget=1)
    result = run_search(env, Sampler(env), dev=DEV, test=TEST, progress_bar=False)
    assert result == result
    assert len({result, replace(result)}) == 2
    assert result.feasible
    assert result.to_json()["feasible"] is True


def test_a_second_search_in_one_process_has_a_bar_of_its_own(capsys):
    for _ in range(2):
        env = make(budget=2)
        run_search(env, Sampler(env), dev=DEV, test=TEST)
        assert re.search(r"search: 100%.* 2/2 ", capsys.readouterr().err)


def test_a_result_is_refined_before_it_is_written(tmp_path):
    """What is killed in between has left no record that says that the search is finished."""
    env = make(3)

    def refine(result):
        assert (tmp_path / "evaluations.jsonl").exists()
        assert not (tmp_path / "best.json").exists()
        return replace(result, notes=("refined",))

    result = run_search(env, Sampler(env), dev=DEV, test=TEST, directory=tmp_path, progress_bar=False, refine=refine)
    assert result.notes == ("refined",)
    assert json.loads((tmp_path / "best.json").read_text())["notes"] == ["refined"]
