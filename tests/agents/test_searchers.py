import inspect
import itertools
import warnings

import gymnasium as gym
import numpy as np
import optuna
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import agents
from agents import (
    ClosedForm,
    EnergyCurve,
    GreedySearch,
    KnapsackSearch,
    ModelBasedSearch,
    OptunaSearch,
    ProfileCurve,
    RandomSearch,
    RankRule,
    UniformRank,
)
from agents.curves import fractions
from shrinkml_env.agent import Learner
from shrinkml_env.envs.registration import make_tabular_env
from shrinkml_env.evaluation.ledger import BudgetExhausted, Ledger
from shrinkml_env.mdp.actions import ACTIONS
from tests.helpers.fake_evaluator import LAYERS, Deaf, FakeEvaluator, linear, make_fake_env
from tests.helpers.levels import make_levelled_env
from tests.helpers.predicted import do_without_a_model

AGENTS = [
    ClosedForm,
    RandomSearch,
    UniformRank,
    EnergyCurve,
    ProfileCurve,
    GreedySearch,
    KnapsackSearch,
    OptunaSearch,
    ModelBasedSearch,
]
STEPS = 5


@pytest.fixture(autouse=True)
def _without_gradients(monkeypatch):
    do_without_a_model(monkeypatch)


@pytest.mark.parametrize("agent_class", [*AGENTS[:-1], pytest.param(ModelBasedSearch, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ACTIONS)
def test_learns_predicts_saves_and_loads(agent_class, kind, tmp_path):
    env = Monitor(make_levelled_env(kind))
    agent = agent_class(env, seed=1)
    with pytest.raises(RuntimeError, match=r"call learn\(\)"):
        agent.predict(env.observation_space.sample())
    steps = 1 if kind == "one_shot" else STEPS
    assert agent.learn(20 * steps) is agent
    assert agent.num_timesteps == 20 * steps
    best = env.unwrapped.problem.best
    assert agent.best_return == pytest.approx(best.reward)
    assert agent.best_ranks == {layer.name: best.ranks[layer.name] for layer in env.unwrapped.layers}

    path = tmp_path / "agents" / "best.npz"
    agent.save(path)
    for player in (agent, agent_class.load(path)):
        mean, _ = evaluate_policy(player, env, n_eval_episodes=1)
        assert mean == pytest.approx(best.reward, abs=1e-6)  # Monitor rounds to six digits
    assert agent_class.load(path, env).learn(steps).num_timesteps == 21 * steps


def test_dictionaries_are_observations_too():
    env = make_fake_env(observation="dict")
    agent = RandomSearch(env, seed=0).learn(10 * STEPS)
    mean, _ = evaluate_policy(agent, DummyVecEnv([lambda: Monitor(env)]), n_eval_episodes=1)
    assert mean == pytest.approx(env.problem.best.reward, abs=1e-6)


def test_without_a_feasible_configuration_the_best_of_the_others_is_kept(tmp_path):
    env = make_fake_env(constraint={"name": "check", "budget": 0.01})
    agent = RandomSearch(env, seed=0).learn(10 * STEPS)
    assert agent.best_return == max(trial.reward for trial in env.problem.history)
    agent.save(tmp_path / "agent.npz")
    # One that is feasible comes before all that are not.
    limited = {"constraint": {"name": "check", "budget": 0.5}, "reward": "accuracy"}
    mixed = make_fake_env(**limited)
    searched = RandomSearch(mixed, seed=0).learn(60 * STEPS)
    assert mixed.problem.best.feasible
    assert searched.best_return == pytest.approx(mixed.problem.best.reward)
    # Saving keeps that it is: the dense model has a better reward, and is over the budget.
    searched.save(tmp_path / "feasible.npz")
    loaded = RandomSearch.load(tmp_path / "feasible.npz", make_fake_env(**limited))
    loaded.search = lambda problem: (problem.search_space.dense for _ in range(1))
    assert loaded.learn(STEPS).best_ranks == searched.best_ranks


def test_predict_takes_batches():
    env = make_fake_env()
    agent = RandomSearch(env, seed=0).learn(STEPS)
    observation, _ = env.reset()
    action, state = agent.predict(observation)
    batch, _ = agent.predict(np.stack([observation, observation]))
    assert action.shape == (1,)
    assert state is None
    assert np.array_equal(batch, np.stack([action, action]))


def test_random_search_depends_on_its_seed_alone():
    runs = []
    for seed in (1, 1, 2):
        env = make_fake_env()
        RandomSearch(env, seed=seed).learn(10 * STEPS)
        runs.append([trial.ranks for trial in env.problem.history])
    assert runs[0] == runs[1] != runs[2]


def test_random_search_draws_every_candidate_equally_often():
    agent = RandomSearch(make_fake_env(), seed=0)
    proposals = agent.search(agent.env.problem)
    draws = [next(proposals)["bridge"] for _ in range(1200)]
    counts = [draws.count(rank) for rank in (1, 2, 3, 4, 5, 9)]
    assert sum(counts) == 1200
    # Chi-square with 5 degrees of freedom: above 20.5 with probability 0.001.
    assert sum((count - 200) ** 2 / 200 for count in counts) < 20.5


def test_fractions_go_from_coarse_to_fine():
    assert list(fractions(8)) == [1, 1 / 2, 3 / 4, 1 / 4, 7 / 8, 5 / 8, 3 / 8, 1 / 8]


def test_uniform_rank_by_hand():
    env = make_fake_env()
    UniformRank(env).learn(3 * STEPS)
    # Break-even ranks: 32 x 27: 14; 256 x 64: 51; 256 x 64: 51; 12 x 9: 5; 100 x 64: 39.
    # Halves: 7, 25.5, 2.5, 19.5: of the candidates round(51 i / 24) 26 is nearest, of 1..5 2, of round(39 i / 24) 20.
    names = [layer.name for layer in env.layers]
    tried = [[trial.ranks[name] for name in names] for trial in env.problem.history]
    assert tried[0] == [14, 51, 51, 5, 39]
    assert tried[1] == [7, 26, 26, 2, 20]
    assert all(one <= other for one, other in zip(tried[1], tried[2], strict=True))


def test_uniform_rank_ends_when_nothing_is_left():
    env = make_fake_env(search_space={"name": "full", "count": 2})
    agent = UniformRank(env).learn(10_000)
    assert agent.num_timesteps == STEPS * env.problem.ledger.count
    # Finer fractions find nothing else, and every layer is once at its smallest and once at its largest rank.
    space = env.problem.search_space
    tried = {tuple(trial.ranks[layer.name] for layer in env.layers) for trial in env.problem.history}
    brute = {
        tuple(space.nearest(index, max(1.0, layer.break_even * step / 5000)) for index, layer in enumerate(env.layers))
        for step in range(1, 5001)
    }
    assert {tuple(ranks[0] for ranks in space.candidates), tuple(ranks[-2] for ranks in space.candidates)} <= tried
    assert tried <= brute


def test_energy_curve_by_hand():
    env = make_fake_env(evaluator=FakeEvaluator((LAYERS[-1],)))
    agent = EnergyCurve(env).learn(3)
    # The squared singular values fall by exp(-1/4), so rank r keeps 1 - exp(-r / 4) of nearly 1: all only if dense;
    # half from ln 2 * 4 = 2.8 on; three quarters from ln 4 * 4 = 5.5 on. Candidates are 2, 3, 5, 7, ...
    assert [trial.ranks["output"] for trial in env.problem.history] == [64, 3, 7]
    assert agent.learn(10_000).num_timesteps == env.problem.ledger.count == 25


def test_profile_curve_by_hand():
    env = make_fake_env()
    ProfileCurve(env, {"encoder.0": 100, "encoder.*": 1, "output": 2}).learn(2 * STEPS)
    names = [layer.name for layer in env.layers]
    tried = [[trial.ranks[name] for name in names] for trial in env.problem.history]
    # At 1/2: "encoder.0" dense, "encoder.1" as uniform, "output" at all of its break-even rank.
    assert tried == [[14, 64, 51, 5, 64], [7, 64, 26, 2, 39]]


@pytest.mark.parametrize("agent", [UniformRank(), EnergyCurve(), ProfileCurve(profile={"encoder.*": 2, "output": 9})])
@pytest.mark.parametrize("size", [0.25, 0.4, 0.61, 0.8, 1.0])
def test_the_largest_of_a_curve_that_fits(agent, size):
    evaluator = FakeEvaluator()
    problem = make_fake_env(evaluator=evaluator).problem
    ranks = agent.ranks_of_size(problem, size)
    assert evaluator.measured == []
    curve = [dict(proposal) for proposal in agent.search(problem)]
    assert max(problem.size(other) for other in curve if problem.size(other) <= size) <= problem.size(ranks) <= size
    with pytest.raises(ValueError, match=r"smallest model on this curve has 0\."):
        agent.ranks_of_size(problem, 0.05)


@pytest.mark.parametrize("size", [0.3, 0.5, 0.9])
def test_the_knapsack_of_a_size_is_the_best_sum_of_that_size(size):
    problem = make_fake_env().problem
    ranks = KnapsackSearch(points=1000).ranks_of_size(problem, size)
    assert problem.size(ranks) <= size
    losses = {
        (layer.name, rank): max(0.0, problem.evaluate({layer.name: rank}).wer - problem.baseline.wer)
        for layer, candidates in zip(problem.layers, problem.candidates, strict=True)
        for rank in candidates
    }
    best = sum(losses[pair] for pair in ranks.items())
    # No change of two layers loses less without growing beyond the size.
    for (one, first), (two, second) in itertools.permutations(zip(problem.layers, problem.candidates, strict=True), 2):
        for higher, lower in itertools.product(first, second):
            other = {**ranks, one.name: higher, two.name: lower}
            if problem.size(other) <= size:
                assert sum(losses[pair] for pair in other.items()) >= best - 1e-9
    with pytest.raises(ValueError, match=r"smallest configuration has 0\."):
        KnapsackSearch().ranks_of_size(problem, 0.05)


def test_greedy_takes_the_cut_that_hurts_least():
    evaluator = FakeEvaluator((LAYERS[-1], LAYERS[2]))
    env = make_fake_env(evaluator=evaluator, search_space={"name": "full", "count": 8})
    GreedySearch(env, evaluations=20).learn(100 * 2)
    history = env.problem.history
    # 500 + 6400 + 28672 numbers; a tenth is 3558. "output" (164 a rank) saves that much at rank 15 of the candidates
    # 5, 10, 15, ..., 39, and "encoder.1" (304 and 320 a rank) at rank 38 of 6, 13, 19, 26, 32, 38, 45, 51.
    assert [trial.ranks for trial in history[:2]] == [
        {"output": 15, "encoder.1": 64},
        {"output": 64, "encoder.1": 38},
    ]
    # The first costs WER (15 is below half of 39), the second none: it stays.
    assert history[0].evaluation.wer > history[1].evaluation.wer == env.problem.baseline.wer
    assert history[2].ranks["encoder.1"] == 38 or history[2].ranks["output"] == 64
    sizes = [trial.evaluation.size_ratio for trial in history]
    assert min(sizes) < 0.3


@pytest.mark.parametrize("budget", [0.8, 0.5])
def test_greedy_comes_down_to_a_size_in_its_evaluations(budget):
    env = make_fake_env(constraint={"name": "check", "budget": budget}, search_space={"name": "full", "count": 200})
    GreedySearch(env, evaluations=50).learn(50 * STEPS)
    sizes = [trial.evaluation.size_ratio for trial in env.problem.history]
    # A round is five evaluations and saves at least a tenth of the way; candidates make it a little more.
    first = next(number for number, size in enumerate(sizes) if size <= budget)
    assert 20 < first < 50


@pytest.mark.parametrize("search", [GreedySearch, KnapsackSearch])
def test_searches_that_reason_about_their_proposals_need_them_unchanged(search):
    env = make_fake_env(constraint={"name": "clip", "budget": 0.5})
    with pytest.raises(ValueError, match="use the constraint 'none' or 'check'"):
        search(env).learn(100 * STEPS)


def test_knapsack_is_exact_where_losses_add_up():
    """The fake model's losses are sums, so the best of a size is found as soon as every candidate has been measured."""
    layers = (linear("first", 40, 30), linear("second", 50, 40), linear("third", 60, 50))
    space = {"name": "full", "count": 4}
    env = make_fake_env(evaluator=FakeEvaluator(layers), search_space=space)
    KnapsackSearch(env, points=4).learn(3 * 200)
    problem = make_fake_env(evaluator=FakeEvaluator(layers), search_space=space).problem
    for choice in itertools.product(*problem.candidates):
        problem.evaluate({layer.name: rank for layer, rank in zip(layers, choice, strict=True)})
    front = {t.evaluation.size_ratio: t.evaluation.wer for t in problem.history}
    found = env.problem.history[12:]
    assert len(found) > 5
    for trial in found:
        best = min(wer for size, wer in front.items() if size <= trial.evaluation.size_ratio + 1e-12)
        assert trial.evaluation.wer == pytest.approx(best)
    best_so_far = itertools.accumulate((front[size] for size in sorted(front)), min)
    whole = sum(after < before - 1e-9 for before, after in itertools.pairwise(best_so_far)) + 1
    assert len({round(trial.evaluation.wer, 9) for trial in found}) == whole


@pytest.mark.slow
def test_knapsack_keeps_to_its_sizes_and_begins_at_the_largest():
    env = make_fake_env()
    KnapsackSearch(env, points=2, sizes=(0.3, 0.6)).learn(30 * STEPS)
    singles = sum(min(2, len(ranks) - 1) for ranks in env.problem.candidates)
    proposals = env.problem.history[singles:]
    assert len(proposals) > 5
    assert all(trial.evaluation.size_ratio <= 0.6 for trial in proposals)
    first = KnapsackSearch(points=2).ranks_of_size(make_fake_env().problem, 0.6)
    assert first.items() <= proposals[0].ranks.items()
    unbound = make_fake_env()
    KnapsackSearch(unbound, points=2).learn(30 * STEPS)
    smallest = [min(t.evaluation.size_ratio for t in e.problem.history[singles:]) for e in (env, unbound)]
    assert smallest[0] > smallest[1]
    with pytest.raises(ValueError, match=r"the smallest configuration has 0\.\d+ of the original's size, not 0\.01"):
        KnapsackSearch(make_fake_env(), sizes=(0.0, 0.01)).learn(STEPS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "episodes"),
    [
        (optuna.samplers.TPESampler(seed=0), 60),
        (optuna.samplers.CmaEsSampler(seed=0, warn_independent_sampling=False), 60),
        (optuna.samplers.NSGAIISampler(seed=0, population_size=10), 60),
        (optuna.samplers.GPSampler(seed=0), 24),  # Slow, but soon there.
    ],
    ids=["tpe", "cmaes", "nsga2", "gp"],
)
def test_optuna_beats_chance(sampler, episodes):
    random = make_fake_env()
    RandomSearch(random, seed=0).learn(60 * STEPS)
    front = isinstance(sampler, optuna.samplers.NSGAIISampler)
    env = make_fake_env()
    OptunaSearch(env, sampler, ("wer", "size_ratio") if front else ("reward",)).learn(episodes * STEPS)
    late = [trial.reward for trial in env.problem.history[-20:]]
    assert np.mean(late) > np.mean([trial.reward for trial in random.problem.history])


def test_a_sampler_that_only_repeats_itself_ends():
    class Smallest(optuna.samplers.RandomSampler):
        def sample_independent(self, study, trial, param_name, param_distribution):
            return param_distribution.low

    env = make_fake_env()
    agent = OptunaSearch(env, Smallest()).learn(1000 * STEPS)
    assert len(env.problem.history) == 1
    assert agent.num_timesteps == 101 * STEPS


def test_which_agents_are_rules():
    rules = {agent_class for agent_class in AGENTS if isinstance(agent_class(), RankRule)}
    assert rules == {ClosedForm, UniformRank, EnergyCurve, ProfileCurve, KnapsackSearch}


BY_DIVERGENCE = {"name": "divergence", "size_weight": 0.2}


@pytest.mark.parametrize("agent_class", [GreedySearch, KnapsackSearch])
def test_searches_that_compare_errors_compare_what_the_reward_depends_on(agent_class):
    by_words, by_divergence = make_fake_env(), make_fake_env(evaluator=Deaf(divergence=True), reward=BY_DIVERGENCE)
    for env in (by_words, by_divergence):
        agent_class(env, seed=0).learn(40 * STEPS)
    tried, expected = ([trial.ranks for trial in env.problem.history] for env in (by_divergence, by_words))
    assert tried == expected


@pytest.mark.parametrize(
    ("make", "least"),
    [
        (lambda value: ModelBasedSearch(warm_up=value), 2),
        (lambda value: ModelBasedSearch(imagined=value), 2),
        (lambda value: ModelBasedSearch(elites=value), 1),
        (lambda value: GreedySearch(evaluations=value), 1),
        (lambda value: KnapsackSearch(points=value), 1),
    ],
)
def test_counts_are_whole_numbers(make, least):
    make(np.int64(least))
    for value in (least - 1, least + 0.5, float(least), True, "3", None):
        with pytest.raises(ValueError, match=f"must be a whole number of at least {least}, got {value!r}"):
            make(value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KnapsackSearch(sizes=(0.5, 0.4)), "sizes must be a range"),
        (lambda: KnapsackSearch(sizes=(0.5, 1.1)), "sizes must be a range"),
        (lambda: OptunaSearch(objectives=("speed",)), "objectives must be some of"),
        (lambda: OptunaSearch(objectives=()), "objectives must be some of"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("agent_class", AGENTS)
def test_the_budget_ends_a_search_and_what_was_found_stays(agent_class):
    env = make_fake_env(ledger=Ledger(budget=6))
    agent = agent_class(env, seed=0)
    with pytest.raises(BudgetExhausted):
        agent.learn(10_000)
    assert env.problem.ledger.count == 6
    assert agent.best_return == pytest.approx(env.problem.best.reward)


@pytest.mark.parametrize("agent_class", AGENTS)
def test_a_killed_search_resumes_to_the_same_end(agent_class, tmp_path):
    histories = []
    for name, interrupted in [("whole", False), ("killed", True)]:
        path = tmp_path / name
        if interrupted:
            env = make_fake_env(ledger=Ledger(path))
            agent_class(env, seed=4).learn(3 * STEPS)
            env.close()  # a kill would have let go of the file
        env = make_fake_env(ledger=Ledger(path))
        agent_class(env, seed=4).learn(8 * STEPS)
        histories.append(env.problem.history)
    assert histories[0] == histories[1]
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "killed").read_bytes()


def test_callback_is_called_after_each_step_and_may_end_the_search():
    env = make_fake_env()
    agent = RandomSearch(env, seed=0)
    seen = []

    def callback(local, _):
        seen.append(local["info"]["layer"])
        return len(seen) < 7

    agent.learn(100, callback=callback)
    assert agent.num_timesteps == len(seen) == 7
    assert seen[0] == seen[5] == "frontend"


def test_progress_bar(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RandomSearch(make_fake_env(), seed=0).learn(STEPS, progress_bar=True)
    assert "5/5" in capsys.readouterr().err


def test_load_rejects_other_files(tmp_path):
    path = tmp_path / "agent.npz"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"agent\.npz was not saved by RandomSearch: it is no \.npz file"):
        RandomSearch.load(path)


@pytest.mark.parametrize(
    "kind", [*(getattr(agents, name) for name in agents.__all__ if name != "RankRule"), PPO], ids=str
)
def test_every_agent_has_what_stable_baselines_agents_have(kind):
    assert issubclass(kind, Learner)
    for method in ("predict", "save", "load"):
        ours, theirs = (inspect.signature(getattr(owner, method)).parameters for owner in (kind, BaseAlgorithm))
        assert list(ours)[:2] == list(theirs)[:2]


def test_the_knapsacks_configuration_is_never_larger_than_the_limit_not_even_by_one_parameter():
    problem = make_tabular_env(table="las_small").problem
    search, count = KnapsackSearch(points=4), problem.baseline.params
    for size in np.linspace(0.3, 0.7, 9):
        ranks = search.ranks_of_size(problem, size)
        below = (problem.evaluator.params(ranks) - 1) / count
        assert problem.size(search.ranks_of_size(problem, below)) <= below


def test_an_episode_that_a_wrapper_ends_is_refused():
    with pytest.raises(ValueError, match="a wrapper ends the episode before its last layer"):
        RandomSearch(gym.wrappers.TimeLimit(make_fake_env(), 3)).learn(10)
