"""A whole search: explore within the budget, choose on dev, report on test."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from shrinkml_env.agent import Learner, is_sb3_algorithm, takes_callback
from shrinkml_env.checks import whole_number
from shrinkml_env.compression import CompressibleModel, canonical_ranks, compress, encoder_parameters, file_bytes
from shrinkml_env.data import UtteranceSpec, load_utterances
from shrinkml_env.envs.wrapped import AnyEnv, budget_of, episode_length, search_problem
from shrinkml_env.evaluation import BudgetExhausted, Evaluation, Evaluator, SupportsEvaluate
from shrinkml_env.evaluation.intervals import wer_increase
from shrinkml_env.evaluation.progress import ProgressBar
from shrinkml_env.mdp.problem import SearchProblem
from shrinkml_env.progress import progress
from shrinkml_env.search_directory import (
    claim,
    describe_search,
    provenance,
    require_folder,
    require_no_larger,
    require_own,
    save_agent,
    write,
)
from shrinkml_env.search_result import SearchResult, SetResult

__all__ = ["choose", "explore", "report", "run_search"]

EPISODES_PER_EVALUATION = 20
"""The largest number of episodes of a run, as a multiple of its budget: an agent that only repeats configurations would
otherwise never end."""


def run_search(
    env: AnyEnv,
    agent: Learner,
    dev: UtteranceSpec = "dev",
    test: UtteranceSpec = "test",
    finalists: int = 5,
    extra_finalists: Sequence[Mapping[str, int]] = (),
    directory: str | os.PathLike[str] | None = None,
    callback: Any = None,
    config: Mapping[str, Any] | None = None,
    progress_bar: bool = True,
    refine: Callable[[SearchResult], SearchResult] | None = None,
) -> SearchResult:
    """Let an agent search ranks within the environment's budget, choose among the best on dev, report on test.

    The agent sees the proxy set only. Its best configurations, the `finalists`, are measured on dev; the model is
    compressed by the best of these and measured on test.

    With a directory the search is resumable: called again with an agent of the same seed, it repeats its episodes and
    reads earlier measurements from ``evaluations.jsonl``. The directory also gets ``search.json`` (a description of the
    search), both models, ``best.json`` and, if the agent has a method ``save(path)``, the agent.

    Example:
        >>> env = gym.make("ShrinkML-v0", ledger={"budget": 200})  # doctest: +SKIP
        >>> result = run_search(env, PPO("MlpPolicy", env, gamma=1.0, seed=0), directory="runs/mine")  # doctest: +SKIP

    Args:
        env: The environment that the agent was made with, wrapped or not: a single one, a vector environment of
            ``gym.make_vec``, or a `shrinkml_env.sb3.ShrinkVecEnv`. Its ledger has the budget.
        agent: An object with the method ``learn(total_timesteps)``.
        dev: Utterances to choose on, as `load_utterances` takes them.
        test: Utterances to report on, likewise.
        finalists: Number of configurations, the best on the proxy set, to measure on dev, at least 1.
        extra_finalists: Further configurations to measure on dev, layer name -> rank, a candidate or not: those of a
            rule, for example, so that nothing worse than the rule is chosen. They count as no evaluations of the
            search.
        directory: The folder for measurements and results; None writes no files.
        callback: Passed to ``agent.learn``; with Stable-Baselines3, together with the one that ends the search.
        config: JSON-able entries to add to ``best.json``; they replace entries of the same name.
        progress_bar: Whether to show a progress bar of the evaluations.
        refine: Called with the result before it is written, and returns the one to write: with the model trained
            further, for example.

    Raises:
        ValueError: The environment has no budget or a vector reward, a set cannot be loaded, an extra finalist has an
            unknown layer or rank, the agent takes no callback or measured nothing, or the directory belongs to another
            search or one with a larger budget.
        TypeError: `env` is not a ShrinkML environment, `agent` has no method `learn`, or `config` is not JSON-able.
    """
    problem = search_problem(env)
    _check(problem, agent, finalists, callback)
    for ranks in extra_finalists:
        canonical_ranks(problem.layers, ranks)  # raises if there is no such configuration
    try:
        json.dumps(dict(config or {}))
    except (TypeError, ValueError) as error:
        raise TypeError(f"config must be a mapping of what JSON can hold: {error}") from error
    folder = None if directory is None else require_folder(directory)
    # All sets are loaded before the search, so that an error in them loses no work.
    sets = {name: problem.evaluator.on(load_utterances(spec, name)) for name, spec in (("dev", dev), ("test", test))}
    _ = problem.evaluator.num_utterances  # a table's set may be missing
    made = {**provenance(env, agent, dev, test), **(config or {})}
    learns = not problem.ledger.spent
    # The ledger's lock keeps other processes out of the directory until everything is written.
    with closing(problem):
        if folder is not None:
            search = describe_search(env, agent)
            if not learns:
                # An agent that has learned already may be described in other words.
                search["agent"] = None
            # First, so that what the ledger holds already gets into no other search's file.
            require_own(folder, search)
            problem.ledger.keep_in(folder / "evaluations.jsonl")
            problem.ledger.attach(problem.evaluator)
            claim(folder, search)
            require_no_larger(folder, budget_of(problem))
        with _progress(problem, progress_bar):
            _explore(env, agent, callback)
        ranks = choose(problem, sets["dev"], finalists, extra_finalists, progress_bar).ranks
        result = report(problem, ranks, sets, made, progress_bar)
        if refine is not None:
            result = refine(result)
        if folder is not None:
            if learns:
                result = replace(result, notes=(*result.notes, *save_agent(agent, folder)))
            write(result, folder)
    return result


def explore(env: AnyEnv, agent: Learner, callback: Any = None) -> SearchProblem:
    """Let an agent play until the budget of unique evaluations is spent.

    Args:
        env: The environment that the agent was made with, as in `run_search`.
        agent: An object with the method ``learn(total_timesteps)``.
        callback: Passed to ``agent.learn``.

    Returns:
        The search problem, whose `history` holds the evaluations.

    Raises:
        ValueError: The ledger has no budget, or the agent ended without an evaluation.
    """
    problem = search_problem(env)
    with closing(problem):
        _explore(env, agent, callback)
    return problem


def _explore(env: AnyEnv, agent: Learner, callback: Any) -> None:
    """Let the agent play, and leave the ledger's file locked."""
    problem = search_problem(env)
    budget = budget_of(problem)
    options = {} if callback is None else {"callback": callback}
    ending = None
    if is_sb3_algorithm(agent):
        # Optional: the library itself does without Stable-Baselines3.
        from shrinkml_env.sb3 import BudgetCallback, with_callbacks

        ending = BudgetCallback()
        options = {"callback": with_callbacks(ending, callback)}
    try:
        if not problem.ledger.spent:
            try:
                agent.learn(total_timesteps=EPISODES_PER_EVALUATION * budget * episode_length(env), **options)
            except BudgetExhausted:
                # Another environment's budget, such as that of an evaluation, does not end this search.
                if not problem.ledger.spent:
                    raise
    finally:
        if ending is not None:
            ending.close()
        problem.evaluator.close()
    if not problem.history:
        raise ValueError(
            f"{type(agent).__name__} has measured nothing: its `learn` finished no episode of this environment; was "
            "the agent made with it?"
        )


def choose(
    problem: SearchProblem,
    dev: Evaluator,
    finalists: int,
    extra_finalists: Sequence[Mapping[str, int]] = (),
    progress_bar: bool = True,
) -> Evaluation:
    """Measure the best configurations of a search on dev, and return the evaluation with the best reward there.

    Args:
        problem: The problem of a finished search.
        dev: The evaluator on dev.
        finalists: The number of configurations of the search to measure.
        extra_finalists: Further configurations, layer name -> rank. Infeasible configurations are measured only if
            none of all is feasible.
        progress_bar: Whether to show a progress bar.
    """
    best = [*(trial.ranks for trial in problem.ranking[:finalists]), *extra_finalists]
    finals = [ranks for ranks in best if problem.is_feasible(ranks)] or best
    measured = []
    with progress(total=1 + len(finals), desc="finalists on dev", unit="evaluation", disable=not progress_bar) as bar:
        try:
            baseline = dev.baseline
            bar.update()
            for evaluation in dev.evaluate_many(finals):
                measured.append(evaluation)
                bar.update()
        finally:
            dev.close()
    return max(measured, key=lambda evaluation: problem.reward(evaluation, baseline)[0])


def report(
    problem: SearchProblem,
    ranks: Mapping[str, int],
    sets: Mapping[str, Evaluator],
    config: Mapping[str, Any],
    progress_bar: bool = True,
) -> SearchResult:
    """Compress the model by the chosen ranks, and measure it on every set.

    Args:
        problem: The problem of a finished search.
        ranks: The chosen configuration: layer name -> rank.
        sets: ``"dev"`` and ``"test"`` -> evaluator on that set; ``"proxy"``, too, if it is not the problem's.
        config: Entries for ``best.json``.
        progress_bar: Whether to show a progress bar.
    """
    evaluators: dict[str, SupportsEvaluate] = {"proxy": problem.evaluator, **sets}
    # Test first: the other sets are cached, so that only test gives the bar a realistic estimate of the time left.
    order = sorted(evaluators, key=lambda name: name != "test")
    measured = {}
    with progress(total=2 * len(order), desc="original and result", unit="evaluation", disable=not progress_bar) as bar:
        for name in order:
            before = evaluators[name].baseline
            bar.update()
            measured[name] = before, evaluators[name].evaluate(ranks)
            bar.update()
    feasible = problem.is_feasible(ranks)
    test = sets["test"]
    # A copy, since what `compress` leaves dense is the original's: training one must not change the other.
    compressed = copy.deepcopy(compress(test.model, test.matrix_ranks(ranks), test.factorisation))
    before, after = measured["test"]
    return SearchResult(
        model=compressed,
        original=test.model,
        layers=problem.layers,
        ranks=dict(ranks),
        params=(before.params, after.params),
        encoder_params=_encoder_params(test.model, compressed),
        file_bytes=(file_bytes(test.model), file_bytes(compressed)),
        sets={name: SetResult.of(*measured[name], evaluator.num_utterances) for name, evaluator in evaluators.items()},
        rewards={name: problem.reward(*reversed(measured[name]))[0] for name in evaluators},
        test_edits=(before.edits, after.edits),
        wer_increase=wer_increase(after.edits, before.edits, before.words),
        history=problem.history,
        feasible=feasible,
        config=dict(config),
        notes=() if feasible else ("Nothing that the search has tried meets the constraint.",),
    )


def _check(problem: SearchProblem, agent: Any, finalists: int, callback: Any) -> None:
    whole_number("finalists", finalists, least=1)
    if isinstance(agent, type) or not callable(getattr(agent, "learn", None)):
        what = f"the class {agent.__name__}: make an agent of it" if isinstance(agent, type) else repr(agent)
        raise TypeError(f"agent must have a method learn(total_timesteps), got {what}")
    if callback is not None and not takes_callback(agent):
        raise ValueError(f"callback: the method learn of {type(agent).__name__} takes none; leave it out")
    problem.require_scalar_reward("a search")
    budget_of(problem)


@contextmanager
def _progress(problem: SearchProblem, shown: bool) -> Iterator[None]:
    if not shown:
        yield
        return
    bar = ProgressBar(problem.ledger.budget)
    problem.ledger.subscribe(bar)
    try:
        yield
    finally:
        problem.ledger.unsubscribe(bar)
        bar.close()


def _encoder_params(original: CompressibleModel, compressed: CompressibleModel) -> tuple[int, int] | None:
    try:
        return encoder_parameters(original), encoder_parameters(compressed)
    except ValueError:
        return None  # the model does not define its encoder
