"""A search as the commands run it: in a folder of its own, with logs, a record and a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from stable_baselines3.common.logger import configure

from agents import ClosedForm, RankRule, UniformRank
from experiments.common.agent import make_agent
from experiments.common.check import check_search_config
from experiments.common.compose import to_container
from experiments.common.course import Course, EpisodeReturns
from experiments.common.environment import LIVE, make_environment
from experiments.common.fetch import fetch
from experiments.common.parts import label, part
from experiments.common.rules import every_rank
from experiments.common.run_directory import run_directory, run_path
from experiments.common.search_report import print_result, write_report
from experiments.common.sets import load_set
from experiments.common.tensorboard import log_result
from experiments.common.trackers import tracked
from experiments.common.transcripts import changed_transcripts
from shrinkml_env import (
    Evaluation,
    EvaluationCache,
    Evaluator,
    Ledger,
    SearchProblem,
    SearchResult,
    Utterance,
    run_search,
)
from shrinkml_env.agent import Learner, is_sb3_algorithm
from shrinkml_env.envs.assembly import search_space_maker
from shrinkml_env.envs.wrapped import AnyEnv, search_problem
from shrinkml_env.files import errors_name
from shrinkml_env.progress import progress
from shrinkml_env.sb3 import EvaluationLog
from shrinkml_env.search_directory import origin
from shrinkml_env.space.level_spaces import LevelSpace
from shrinkml_env.space.search_space import uniform_ranks

CHOICE = "choice on dev, result on test"
"""The phase of a course that follows the search."""

CURVE_FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Fractions of the break-even rank for the curve of uniform ranks in the report's picture."""


def search(config: DictConfig, title: str) -> Path:
    """Run one search, write its report, and return the run's directory.

    Raises:
        ValueError: The config is not valid.
    """
    check_search_config(config)
    directory = run_path(config, title)
    course = Course()
    fetch(config, "proxy", "dev", "test")
    sets = {name: load_set(config, name) for name in ("dev", "test")}
    # The folder is created only after everything has been made. (An error leaves one behind only with a ledger's lock.)
    with errors_name(directory), closing(search_environment(config, directory)) as env:
        agent = make_agent(config.agent, env)
        run_directory(config, title)
        result = search_in_directory(config, env, agent, sets, directory, title, course)
        write_outputs(result, search_problem(env), agent, directory, config, course)
    return directory


def search_environment(config: DictConfig, directory: Path) -> AnyEnv:
    """Make the environment of a config, with its ledger in a directory.

    Raises:
        ValueError: A part of the config does not fit the model or the data.
        FileNotFoundError: The model or a set is missing.
    """
    ledger = Ledger(directory / "evaluations.jsonl", config.budget)
    env: AnyEnv = make_environment(config, ledger, EvaluationCache())
    return env


def search_in_directory(
    config: DictConfig,
    env: AnyEnv,
    agent: Learner,
    sets: Mapping[str, Sequence[Utterance]],
    directory: Path,
    title: str,
    course: Course,
    extra_finalists: Sequence[Mapping[str, int]] = (),
    refine: Callable[[SearchResult], SearchResult] | None = None,
) -> SearchResult:
    """Run a search in a directory, and return its result.

    Args:
        config: The search's config.
        env: The environment.
        agent: The agent, made with it.
        sets: ``"dev"`` and ``"test"`` -> the utterances of the config's sets.
        directory: The folder of the run.
        title: The title of the report.
        course: Begun before the environment was made; it gets the times and, where they are known, the returns.
        extra_finalists: As in `run_search`.
        refine: As in `run_search`.

    Raises:
        ValueError: The agent has measured nothing, or the directory belongs to another search.
    """
    course.end("model, factors, search space")
    problem = search_problem(env)
    problem.ledger.subscribe(course)
    print(f"search space: {len(problem.layers)} layers, {problem.search_space.size:.1e} configurations")
    logger = configure(str(directory / "tensorboard"), ["tensorboard"])
    callback = None
    if is_sb3_algorithm(agent):
        agent.set_logger(logger)  # run_search records evaluations in it
        callback = EpisodeReturns(course, problem.ledger)
    else:
        problem.ledger.subscribe(EvaluationLog(logger, problem))
    entries = record_entries(config, title, problem)
    settings = {"directory": str(directory), "model": config.model, **entries["settings"]}
    with closing(logger), tracked(config.logger, title, directory, settings, problem) as conclude_run:
        result = run_search(
            env,
            agent,
            sets["dev"],
            sets["test"],
            finalists=config.finalists,
            extra_finalists=extra_finalists,
            directory=directory,
            callback=callback,
            config=entries,
            refine=refine,
        )
        conclude_run(result)
    course.end(CHOICE)
    return result


def record_entries(config: DictConfig, title: str, problem: SearchProblem) -> dict[str, Any]:
    """Return the entries of ``best.json`` that describe how a result was made: its title and `origin`."""
    settings = {
        **{group: label(config[group]) for group in ("agent", *LIVE) if group != "search_space"},
        "search space": f"{label(config.search_space)}, {problem.search_space.size:.1e} configurations",
        "budget": f"{config.budget} unique evaluations",
        "seed": str(config.seed),
    }
    sets = {name: to_container(config[name]) for name in ("proxy", "dev", "test")}
    how = origin(settings, config.model, sets, to_container(config.factorisation), to_container(config.granularity))
    return {"title": title, **how}


def write_outputs(
    result: SearchResult,
    problem: SearchProblem,
    agent: Learner,
    directory: Path,
    config: DictConfig,
    course: Course,
) -> None:
    """Write the report, with rules of the result's size beside it, and print the result.

    The rules, and the curve of uniform ranks if the config requests it, are measured on the proxy set; the search's
    ledger does not count them.
    """
    uniform: Sequence[Evaluation] = ()
    if config.uniform_curve:
        uniform = uniform_curve(problem)
        course.end("curve of uniform ranks")
    rules: dict[str, RankRule] = {"uniform ranks": UniformRank()}
    damage = None
    predicting = predicting_rule(config, agent)
    if predicting is not None:
        # The first round's prediction was made for the search and comes from the evaluator's cache.
        prediction = predicting.prediction(problem)
        damage = {layer.name: prediction.of(layer, result.ranks[layer.name]) for layer in result.layers}
        rules["ranks of the least predicted damage"] = predicting
    # Of all ranks: among the candidates of a search space that is formed by damage, uniform ranks are not uniform.
    assert isinstance(problem.evaluator, Evaluator)
    free = every_rank(problem.evaluator, problem.layers)
    beside = {
        name: problem.evaluator.evaluate(rule.ranks_of_size(free, result.size_ratio)) for name, rule in rules.items()
    }
    course.end("rules of the same size")
    transcripts = changed_transcripts(result, load_set(config, "test"))
    course.end("transcripts that changed")
    searched = problem.evaluator.evaluate(result.ranks)
    write_report(directory, result, course, uniform, transcripts, damage, beside, searched.wer)
    log_result(directory, result)
    print_result(result, directory)


def predicting_rule(config: DictConfig, agent: Learner) -> ClosedForm | None:
    """Return the rule with the predicted damage that agent or search space use; None if neither uses any."""
    for rule in (agent, *getattr(agent, "rules", ())):
        if isinstance(rule, ClosedForm):
            return rule
    maker = search_space_maker(part("search_space", config.search_space))
    return ClosedForm(calibration=maker.calibration, draws=maker.draws) if isinstance(maker, LevelSpace) else None


def uniform_curve(problem: SearchProblem) -> list[Evaluation]:
    """Measure uniform ranks on the proxy set for the picture; the search's ledger does not count them."""
    fractions = progress(CURVE_FRACTIONS, desc="uniform-rank curve", unit="evaluation")
    return [problem.evaluator.evaluate(uniform_ranks(problem.layers, fraction)) for fraction in fractions]
