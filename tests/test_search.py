"""Whole searches on a small recogniser, as they are typed in a notebook."""

import json

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

import shrinkml_env
from shrinkml_env import BudgetExhausted, Ledger, load_compressed, load_model, run_search
from shrinkml_env.envs.vector import VectorShrinkEnv
from shrinkml_env.evaluation import word_edits
from shrinkml_env.evaluation.intervals import wer_increase
from shrinkml_env.evaluation.ledger_file import read_ledger
from shrinkml_env.sb3 import BudgetCallback, ShrinkVecEnv
from shrinkml_env.search import episode_length, explore, search_problem
from tests.helpers.fake_evaluator import FakeEvaluator, make_fake_env
from tests.helpers.models import TinyCTC, half_recognised

MODEL = TinyCTC()


PROXY, DEV, TEST = (half_recognised(MODEL, 4, seed) for seed in range(3))


def make(budget=6, **arguments):
    arguments = {"model": MODEL, "proxy": PROXY, "ledger": {"budget": budget}, "cache": None} | arguments
    return gym.make("ShrinkML-v0", **arguments)


class Sampler:
    """An agent that knows nothing of Stable-Baselines3, callbacks, saving or budgets."""

    def __init__(self, env, seed=0):
        self.env, self.seed = env, seed

    def learn(self, total_timesteps):
        self.env.action_space.seed(self.seed)
        self.env.reset(seed=self.seed)
        for _ in range(total_timesteps):
            _, _, over, _, _ = self.env.step(self.env.action_space.sample())
            if over:
                self.env.reset()


def ppo(env, **options):
    options = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "gamma": 1.0, "seed": 0} | options
    return PPO("MlpPolicy", env, **options)


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


class Ends(BaseCallback):
    """Notes when training ends."""

    ended = 0

    def _on_step(self):
        return True

    def _on_training_end(self):
        self.ended += 1


@pytest.mark.parametrize(
    ("kind", "action", "options"),
    [
        (PPO, "continuous", {"n_steps": 8, "batch_size": 8}),
        (SAC, "continuous", {"learning_starts": 8, "batch_size": 4}),
        (DQN, "discrete", {"learning_starts": 8, "batch_size": 4}),
    ],
)
def test_stable_baselines_agents_end_by_callback(kind, action, options, tmp_path):
    env = make_fake_env(action, ledger=Ledger(budget=9))
    agent = kind("MlpPolicy", env, seed=0, **options)
    seen, other = Ends(), Monitor(make_fake_env(action))
    callbacks = [
        seen,
        EvalCallback(other, n_eval_episodes=1, eval_freq=20, verbose=0),
        CheckpointCallback(15, str(tmp_path)),
    ]
    returned = agent.learn(10_000, callback=[BudgetCallback(), *callbacks])
    assert returned is agent
    assert seen.ended == 1
    assert env.problem.ledger.count == 9
    assert callbacks[1].best_mean_reward > -np.inf
    assert sorted(path.name for path in tmp_path.glob("*.zip"))[0].startswith("rl_model_15")
    # Nothing is left: a further call ends with its first step.
    before = agent.num_timesteps
    agent.learn(1000, callback=BudgetCallback(), reset_num_timesteps=False)
    assert agent.num_timesteps == before + 1


def test_a_callback_ends_several_environments_in_the_middle_of_a_step():
    evaluator = FakeEvaluator()
    envs = ShrinkVecEnv(VectorShrinkEnv(make_fake_env(evaluator=evaluator, ledger=Ledger(budget=7)), 4))
    seen = Ends()
    agent = ppo(envs, n_steps=10, batch_size=40)
    assert agent.learn(10_000, callback=[BudgetCallback(), seen]) is agent
    assert seen.ended == 1
    assert len(evaluator.measured) == envs.first.problem.ledger.count == 7
    # A further training with the callback ends at once.
    assert agent.learn(1000, callback=BudgetCallback(), reset_num_timesteps=False) is agent
    # Without the callback the environment says so itself.
    with pytest.raises(BudgetExhausted):
        agent.learn(10_000)


def test_the_same_evaluations_with_and_without_the_callback():
    histories = []
    for callback in (BudgetCallback(), None):
        env = make_fake_env(ledger=Ledger(budget=12))
        agent = ppo(env)
        try:
            agent.learn(10_000, callback=callback)
        except BudgetExhausted:
            assert callback is None
        histories.append([trial.ranks for trial in env.problem.history])
    assert histories[0] == histories[1]
    assert len(histories[0]) == 12


def test_evaluations_are_in_the_agents_log():
    class Reads(BaseCallback):
        def _on_step(self):
            values.append(dict(self.logger.name_to_value))
            return True

    values = []
    env = make_fake_env(ledger=Ledger(budget=3))
    ppo(env).learn(1000, callback=[BudgetCallback(), Reads()])
    last, best = env.problem.history[-1], max(trial.reward for trial in env.problem.history)
    assert values[-1]["evaluation/count"] == 3
    assert values[-1]["evaluation/wer"] == last.evaluation.wer
    assert values[-1]["evaluation/size_ratio"] == last.evaluation.size_ratio
    assert values[-1]["evaluation/best_reward"] == best


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
        ({"env": make_fake_env()}, ValueError, r'needs a budget of evaluations: .*ledger=\{"budget": 200\}'),
        ({"env": make_fake_env(reward="vector", ledger=Ledger(budget=1))}, ValueError, "needs a scalar reward"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_made(change, error, message, tmp_path):
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


def test_an_end_that_the_callback_does_not_see_is_no_endless_loop():
    """`EvalCallback` plays on the same environments; the budget ends while it does."""
    envs = ShrinkVecEnv(VectorShrinkEnv(make_fake_env(ledger=Ledger(budget=12)), 3))
    evaluation = EvalCallback(envs, n_eval_episodes=30, eval_freq=5, deterministic=False, warn=False)
    with pytest.raises(BudgetExhausted):
        ppo(envs, batch_size=24).learn(10_000, callback=[BudgetCallback(), evaluation])
    assert envs.first.problem.ledger.spent


def test_environments_in_other_processes_are_refused():
    envs = SubprocVecEnv([make_fake_env] * 2)
    with pytest.raises(ValueError, match=r"other processes: use ShrinkVecEnv"):
        ppo(envs).learn(100, callback=BudgetCallback())
    envs.close()


def test_a_shared_ledger_is_counted_once():
    ledger = Ledger(budget=4)
    evaluator = FakeEvaluator()
    envs = DummyVecEnv([lambda: make_fake_env(evaluator=evaluator, ledger=ledger)] * 2)
    values = []

    class Reads(BaseCallback):
        def _on_step(self):
            values.append(self.logger.name_to_value.get("evaluation/count", 0))
            return True

    ppo(envs, batch_size=16).learn(1000, callback=[BudgetCallback(), Reads()])
    assert max(values) == 4


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


def test_an_error_in_a_callback_leaves_no_quiet_environment():
    class Fails(BaseCallback):
        def _on_step(self):
            raise KeyError("mine")

    envs = ShrinkVecEnv(VectorShrinkEnv(make_fake_env(ledger=Ledger(budget=7)), 4))
    with pytest.raises(KeyError, match="mine"):
        explore(envs, ppo(envs, n_steps=10, batch_size=40), Fails())
    with pytest.raises(BudgetExhausted):
        ppo(envs, n_steps=10, batch_size=40).learn(10_000)


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
