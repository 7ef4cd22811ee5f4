"""Make a model smaller: ``python -m experiments.compress model=MODEL data=FOLDER target_size=0.5``.

Or ``max_wer_increase=0.5``, in points, which first looks for the size. Splits the data by speaker, checks that model
and data go together, searches with the settings that suit the goal, with ``finetune=FOLDER`` trains what was found on
more speech, and leaves the compressed model and a report in one folder. Started again, the same command resumes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.common.agent import make_agent
from experiments.common.command import command
from experiments.common.command_errors import given_by
from experiments.common.compose import compose_config
from experiments.common.course import Course
from experiments.common.duration import estimated_seconds
from experiments.common.environment import make_environment
from experiments.common.finetuning import RESULT, finetune, load_las
from experiments.common.goal import (
    HALVINGS,
    STEP_FINALISTS,
    compose_search,
    goal,
    require_in_space,
    require_reachable,
    smallest_size,
    verdict,
)
from experiments.common.kinds import NAME, number, optional, whole
from experiments.common.measure import measure
from experiments.common.options import OVERRIDES, check_options
from experiments.common.parts import activation_aware, part
from experiments.common.rules import ranks_of_rules
from experiments.common.run_directory import run_directory, title_of
from experiments.common.search_run import CHOICE, search_environment, search_in_directory, write_outputs
from experiments.common.searches import compensated, compensates, evaluator_on
from experiments.common.sets import load_set
from experiments.common.speech import (
    Speech,
    calibrate_on,
    data_folder,
    embedded_speech,
    folder_speech,
    require_recognition,
    require_spelling,
    speaker_overlap,
)
from shrinkml_env import (
    CompressibleModel,
    Evaluator,
    Ledger,
    SearchProblem,
    SearchResult,
    load_model,
    load_utterances,
)
from shrinkml_env.asr.zoo import SHIPPED_MODELS
from shrinkml_env.compression import require_storable
from shrinkml_env.data import SpeechFolder
from shrinkml_env.envs.assembly import make_reward
from shrinkml_env.envs.wrapped import search_problem
from shrinkml_env.evaluation.intervals import wer_increase
from shrinkml_env.files import read_json_object, write_atomic
from shrinkml_env.mdp.rewards import signal_of
from shrinkml_env.search import choose, explore, report
from shrinkml_env.search_directory import write
from shrinkml_env.search_result import MODELS, SetResult


@dataclass(frozen=True, slots=True)
class Job:
    """A checked request to compress one model.

    Attributes:
        title: Title of the run's folder.
        search: Config of the search; its sets are still missing, and its size if that has to be found first.
        smallest: The smallest size ratio that any configuration has.
        speech: The speech for the search and the measurements.
        data_note: A sentence on how the data was split, and which speakers the training knows.
        training: Config of the fine-tuning, without its models and sets; None without fine-tuning.
        seconds: The time that the original takes for the proxy set.
        estimated: An estimate of the seconds for everything but the training.
    """

    title: str
    search: DictConfig
    smallest: float
    speech: Speech
    data_note: str
    training: DictConfig | None
    seconds: float
    estimated: float


def prepare(config: DictConfig) -> Job:
    """Check the goal, the model and every audio file that will be used, without writing anything.

    Raises:
        ValueError: The goal, the model, the data or their combination is wrong.
        FileNotFoundError: There is no such model or data.
        ImportError: A package is not installed.
    """
    title = f"{title_of(config.model)}-{goal(config).replace('=', '-')}"
    model: Any = load_model(config.model)
    require_storable(model)
    model = model.to(config.device)
    with given_by("overrides", "search", config.overrides):
        search = compose_search(config, model)
    smallest = require_reachable(config.target_size, search, model)
    trained_on = None if config.finetune is None else data_folder(config.finetune)
    training = None if trained_on is None else compose_training(config, model, trained_on)
    predicts = signal_of(make_reward(part("reward", search.reward))) == "divergence"
    speech = speech_of(config, model, predicts)
    seconds = require_recognition(model, speech.proxy)
    return Job(
        title=title,
        search=search,
        smallest=smallest,
        speech=speech,
        data_note=speech.note + speaker_overlap(trained_on, speech.voices),
        training=training,
        seconds=seconds,
        estimated=estimated_seconds(config, search, model, speech, seconds, predicts),
    )


def speech_of(config: DictConfig, model: CompressibleModel, predicts: bool) -> Speech:
    """Return the speech that a config names, checked.

    Raises:
        ValueError: It is not for this model.
    """
    if config.data is not None:
        return folder_speech(config, model, predicts)
    if config.model not in SHIPPED_MODELS:
        raise ValueError("data=FOLDER is missing: the embedded speech is for las_small, other models need theirs")
    return embedded_speech(config.utterances)


def compress(config: DictConfig, job: Job) -> Path:
    """Compress one model, and return the run's folder."""
    directory = run_directory(config, job.title)
    if job.speech.folder is not None:
        files = write_sets(job.speech.folder, job.speech.ids, directory)
        # The embedded speech suits the embedded model alone.
        calibrate_on(job.search, files.pop("calibration"))
        for name, spec in files.items():
            job.search[name] = spec
    notes = [job.data_note]
    course = Course()
    if config.max_wer_increase is not None:
        notes.append(find_size(job.search, job.smallest, config.max_wer_increase / 100, directory / "sizes"))
        course.end("searches for the size")
    OmegaConf.save(job.search, directory / "search.yaml", resolve=True)
    # What is found is only the end where nothing is trained; a search's folder says that it is finished.
    found_in = directory if job.training is None else directory / "search"
    with closing(search_environment(job.search, found_in)) as env:
        problem = search_problem(env)
        require_in_space(config.target_size, problem)
        agent = make_agent(job.search.agent, env)
        sets = {name: load_set(job.search, name) for name in ("dev", "test")}

        def refine(result: SearchResult) -> SearchResult:
            """Compensate where nothing is trained; what the folder holds then is finished."""
            if job.training is not None or not compensates(job.search, result.original):
                return result
            course.end(CHOICE)
            refined, note = compensate(job.search, problem, result)
            course.end("compensation")
            notes.append(note)
            return refined

        title = f"{config.model}, {goal(config)}"
        finalists = ranks_of_rules(problem, job.search.agent)
        result = search_in_directory(job.search, env, agent, sets, found_in, title, course, finalists, refine)
    if job.training is not None:
        result, note = fine_tune(job.training, job.search, directory, result)
        course.end("training")
        notes.append(note)
    result = replace(result, notes=(verdict(config, result), *result.notes, *notes))
    write(result, directory)
    write_outputs(result, problem, agent, directory, job.search, course)
    return directory


def write_sets(folder: Path, ids: Mapping[str, Sequence[str]], directory: Path) -> dict[str, dict[str, str]]:
    """Write the ids of each set into a file of the run, and return the sets as `load_utterances` takes them.

    Raises:
        ValueError: The run was begun with other utterances; its files are unchanged.
    """
    paths = {name: (directory / f"{name}.txt").absolute() for name in ids}
    lists = {name: "".join(f"{utterance_id}\n" for utterance_id in listed) for name, listed in ids.items()}
    for name, path in paths.items():
        if path.exists() and path.read_text() != lists[name]:
            raise ValueError(
                f"{folder} holds other utterances than when this run was begun, whose {name} set is listed in {path}: "
                "give another outputs=, or remove the run's folder"
            )
    for name, path in paths.items():
        write_atomic(path, lists[name])
    return {name: {"root": str(folder.parent), "subset": folder.name, "ids": str(path)} for name, path in paths.items()}


def find_size(search: DictConfig, smallest: float, allowed: float, folder: Path) -> str:
    """Look for the smallest size at which a search loses no more WER on dev than is allowed, by halving the range.

    The searches take half of the budget. The other half, and the size, are left in the config.

    Args:
        search: Config of a search with a limit on the size.
        smallest: The lower end of the range, a size ratio; the upper end is 1.
        allowed: The largest allowed increase of the WER on dev, a fraction.
        folder: The folder of these searches.

    Returns:
        A sentence for the report that lists the sizes that were tried.
    """
    step = search.copy()
    step.budget = search.budget // (2 * HALVINGS)
    step.finalists = min(STEP_FINALISTS, search.finalists)
    kept, lost, tried = 1.0, smallest, []
    for _ in range(HALVINGS):
        size = step.constraint.budget = round((kept + lost) / 2, 3)
        ledger = Ledger(folder / f"{size:.3f}" / "evaluations.jsonl", step.budget)
        with closing(make_environment(step, ledger)) as env:
            if (least := smallest_size(search_problem(env))) > size:
                lost = min(1.0, math.ceil(1000 * least) / 1000)
                tried.append(f"nothing so small at {size:g}")
                continue
            problem = explore(env, make_agent(step.agent, env))
            dev = problem.evaluator.on(load_set(step, "dev"))
            chosen = choose(problem, dev, step.finalists)
        increase = chosen.wer - dev.baseline.wer
        tried.append(f"{100 * increase:+.2f} points at {size:g}")
        if increase <= allowed and chosen.size_ratio <= size:
            kept = size
        else:
            lost = size
    search.budget -= HALVINGS * step.budget
    # If nothing was good enough, the largest that was tried: the report says what it costs.
    search.constraint.budget = kept if kept < 1 else lost
    return f"Sizes looked at first, with {step.budget} evaluations each, and what they cost on dev: {', '.join(tried)}."


def fine_tune(
    training: DictConfig, search: DictConfig, directory: Path, result: SearchResult
) -> tuple[SearchResult, str]:
    """Train the model that the search in a directory has compressed, and keep the outcome if it is better on dev.

    Returns:
        The result, and a sentence about it for the report.
    """
    training = training.copy()
    found = {name: str(directory / "search" / name) for name in MODELS}
    training.merge_with({"seed_model": found["compressed"], "original": found["original"]})
    training.merge_with({"outputs": str(directory / "finetune")})
    for name in ("dev", "test"):
        training.data[name] = search[name]
    run = finetune(training)
    outcome = read_json_object(run / RESULT)
    before, after = (outcome[when]["dev"]["wer"] for when in ("before", "after"))
    epochs = f"{training.training.epochs:g} epochs on {training.data.train.root}/{training.data.train.subset}"
    wers = f"the WER on dev is {100 * before:.2f} % before and {100 * after:.2f} % after {epochs}"
    if after >= before:
        return result, f"Training did not help: {wers}. The model is unchanged."
    trained: Any = load_model(str(run / "model"))
    sets, edits, increase = {}, result.test_edits, result.wer_increase
    for name in result.sets:
        then, now = (measure(model, load_set(search, name)) for model in (result.original, trained))
        sets[name] = SetResult.of(then, now)
        if name == "test":
            edits = (then.edits, now.edits)
            increase = wer_increase(now.edits, then.edits, then.words)
    # The search's rewards are of another model now.
    result = replace(result, model=trained, sets=sets, rewards={}, test_edits=edits, wer_increase=increase)
    return result, f"Training helped: {wers}."


def compensate(search: DictConfig, problem: SearchProblem, result: SearchResult) -> tuple[SearchResult, str]:
    """Fit the factors that were found to what the compressed model gives, and keep them if they are better on dev.

    Returns:
        The result, and a sentence about it for the report.
    """
    evaluator = problem.evaluator
    assert isinstance(evaluator, Evaluator)
    calibration = activation_aware(search.factorisation)
    assert calibration is not None
    if len(load_utterances(calibration.calibration, "calibration")) < 2:
        return result, "No compensation: it needs two or more utterances of calibration speech."
    factors = compensated(evaluator, search, result.ranks)
    fitted = {
        name: (evaluator if name == "proxy" else evaluator_on(problem, search, name)).with_factorisation(factors)
        for name in result.sets
    }
    before, after = result.sets["dev"].wer_after, fitted["dev"].evaluate(result.ranks).wer
    if after >= before:
        wers = f"the WER on dev is {100 * before:.2f} % without it and {100 * after:.2f} % with it"
        return result, f"Compensation did not help: {wers}. The model is unchanged."
    note = f"Compensation lowered the WER on dev from {100 * before:.2f} % to {100 * after:.2f} %."
    return report(problem, result.ranks, fitted, {**result.config, "compensated": True}), note


def compose_training(config: DictConfig, model: CompressibleModel, speech: SpeechFolder) -> DictConfig:
    """Return the config of the fine-tuning, without its models and the sets that it is measured on.

    Raises:
        ValueError: Models like this one are not trained here, or the speech is that of `data`, or misspelt.
    """
    load_las(config.model)
    if config.data is not None and Path(config.data).resolve() == Path(config.finetune).resolve():
        raise ValueError(f"finetune={config.finetune} is data as well: what is measured must not be trained on")
    require_spelling(model, list(zip(speech.ids, speech.texts, strict=True)), config.finetune)
    overrides = ["distillation=original", *config.finetune_overrides]
    with given_by("finetune_overrides", "finetune", overrides):
        training = compose_config("finetune", overrides)
        check_options(training)
    training.data.train = {"root": str(speech.folder.parent), "subset": speech.folder.name}
    training.device = config.device
    return training


@command(
    "compress",
    folder="compress",
    data=optional(NAME),
    target_size=optional(number(above=0, below=1)),
    max_wer_increase=optional(number(above=0)),
    finetune=optional(NAME),
    finetune_overrides=OVERRIDES,
    **dict.fromkeys(("utterances.calibration", "utterances.proxy"), optional(whole(1))),
)
def main(config: DictConfig) -> None:
    """Check the request, say how long it will take, and compress the model."""
    job = prepare(config)
    print(job.data_note)
    training = "" if job.training is None else ", and the training besides"
    print(
        f"The original takes {job.seconds:.1f} s for the proxy set: {config.budget} models on it, "
        f"{job.search.finalists} on dev and the result on test will take about "
        f"{max(1, round(job.estimated / 60))} min in all{training}."
    )
    compress(config, job)


if __name__ == "__main__":
    main()
