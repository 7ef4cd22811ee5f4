"""Make a model smaller: ``python -m experiments.compress model=MODEL data=FOLDER target_size=0.5``.

Or ``max_wer_increase=0.5``, in points, which first looks for the size. Splits the data by speaker, checks that model
and data go together, searches with the settings that suit the goal, with ``finetune=FOLDER`` trains what was found on
more speech, and leaves the compressed model and a report in one folder. Started again, the same command resumes.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from agents import ClosedForm
from experiments.common.agent import make_agent
from experiments.common.check import check
from experiments.common.command import command
from experiments.common.command_errors import given_by
from experiments.common.compose import compose_config
from experiments.common.course import Course
from experiments.common.environment import make_environment
from experiments.common.kinds import NAME, number, optional
from experiments.common.measure import measure
from experiments.common.options import OVERRIDES, check_options
from experiments.common.parts import activation_aware, part
from experiments.common.run_directory import plain, run_directory, title_of
from experiments.common.searches import compensated, evaluator_on
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
from experiments.finetune import RESULT, finetune, load_las
from experiments.search import conclude, environment, find
from shrinkml_env import (
    CompressibleModel,
    Evaluator,
    Ledger,
    SearchProblem,
    SearchResult,
    count_parameters,
    load_model,
    load_utterances,
)
from shrinkml_env.asr.zoo import SHIPPED_MODELS
from shrinkml_env.compression import PredictiveModel, compressed_parameters, ranks_by_matrix, require_storable
from shrinkml_env.compression.protocol import require_predictions
from shrinkml_env.data import SAMPLE_RATE, SpeechFolder
from shrinkml_env.envs.assembly import make_reward, search_space_maker
from shrinkml_env.evaluation.evaluator import group_layers
from shrinkml_env.evaluation.intervals import wer_increase
from shrinkml_env.files import read_json_object, write_whole
from shrinkml_env.mdp.rewards import signal_of
from shrinkml_env.search import choose, explore, report
from shrinkml_env.search_directory import write
from shrinkml_env.search_result import MODELS, SetResult
from shrinkml_env.space.level_spaces import LevelSpace

GRADIENT = 2.5
"""A pass that takes gradients takes about so many times as long as one that recognises."""

HALVINGS = 4
"""Of the range of sizes, in search for the smallest that loses no more than is allowed."""

PASSED_ON = ("budget", "seed", "device", "workers", "memory_mb", "imports")
"""Options that the search takes over."""

OWN = {
    **{name: f"{name}=" for name in ("model", "outputs", *PASSED_ON)},
    **dict.fromkeys(("proxy", "dev", "test"), "data= and utterances="),
}
"""Option of the search -> the options of this command that decide it."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is wanted, checked.

    Attributes:
        title: Of the folder.
        search: Config of the search, but for its sets, and for its size where that is looked for.
        smallest: Size ratio below which there is nothing to choose.
        speech: What is searched and measured on.
        data_note: What was split how, and who is known from training, for people.
        training: Config of the fine-tuning, but for its models and sets; None without one.
        seconds: That the original takes for the proxy set.
        whole: Seconds that everything but the training will take, about.
    """

    title: str
    search: DictConfig
    smallest: float
    speech: Speech
    data_note: str
    training: DictConfig | None
    seconds: float
    whole: float


def prepare(config: DictConfig) -> Job:
    """Look at the goal, the model and every audio file that will be used. Writes nothing.

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
        whole=whole_time(config, search, model, speech, seconds, predicts),
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


def whole_time(
    config: DictConfig, search: DictConfig, model: CompressibleModel, speech: Speech, seconds: float, predicts: bool
) -> float:
    """Return about how many seconds all will take: preparing factors, searching, choosing, reporting.

    Args:
        config: The command's.
        search: Of the search.
        model: The original.
        speech: What is measured on.
        seconds: That the original takes for the proxy set.
        predicts: Whether each measurement predicts as well as recognises.
    """
    searches = 1 if config.max_wer_increase is None else 1 + HALVINGS
    calibration = fitting = 0.0
    factors = activation_aware(search.factorisation)
    if factors is not None:
        spoken = load_utterances(factors.calibration, "calibration")
        embedded = (utterance.waveform.numel() / SAMPLE_RATE for utterance in spoken)
        calibration = speech.seconds["proxy"] if speech.folder else sum(embedded)
        rules = instantiate(search.agent.get("rules") or [], _convert_="all")
        gradients = factors.weigh_rows + sum(isinstance(rule, ClosedForm) for rule in rules)
        if config.finetune is None and compensates(search, model):
            # Each matrix takes its own stage of the model twice.
            matrices = sum(len(layer.matrices) for layer in model.layers)
            fitting = 2 * calibration * matrices / (1 + len(require_predictions(model).stages))
        calibration *= 1 + factors.augmented_copies + GRADIENT * gradients
    finalists = min(search.finalists, search.budget) + (searches - 1) * max(1, search.finalists // HALVINGS)
    # With the original once on each set.
    models = {"proxy": searches + search.budget, "dev": 1 + finalists, "test": 2}
    measured = sum(count * speech.seconds[name] for name, count in models.items())
    pace = seconds / speech.seconds["proxy"]
    recognised = (2 if predicts else 1) * measured + searches * calibration + fitting
    return float(pace * recognised + searches * factoring_time(model))


def factoring_time(model: CompressibleModel) -> float:
    """Return about how many seconds the decomposition of all matrices takes, from that of a small one."""
    size = 256
    begun = time.perf_counter()
    torch.linalg.svd(torch.eye(size, dtype=torch.float64) + 1, full_matrices=False)
    one = (time.perf_counter() - begun) / size**3
    matrices = [matrix for layer in model.layers for matrix in layer.matrices]
    work = sum(matrix.rows * matrix.columns * min(matrix.rows, matrix.columns) for matrix in matrices)
    return float(one * work)


def compress(config: DictConfig, job: Job) -> Path:
    """Make one model smaller; returns its folder."""
    directory = run_directory(config, job.title)
    for name, ids in job.speech.ids.items():
        folder = job.speech.folder
        assert folder is not None
        path = directory / f"{name}.txt"
        write_whole(path, "".join(f"{utterance_id}\n" for utterance_id in ids))
        job.search[name] = {"root": str(folder.parent), "subset": folder.name, "ids": str(path.absolute())}
    if job.speech.ids:
        # The embedded speech suits the embedded model alone; the proxy set is not reported.
        calibrate_on(job.search, job.search.proxy)
    notes = [job.data_note]
    if config.max_wer_increase is not None:
        notes.append(find_size(job.search, job.smallest, config.max_wer_increase / 100, directory / "sizes"))
    OmegaConf.save(job.search, directory / "search.yaml", resolve=True)
    # What is found is only the end where nothing is trained; a search's folder says that it is finished.
    found_in = directory if job.training is None else directory / "search"
    course = Course()
    with closing(environment(job.search, found_in)) as env:
        agent = make_agent(job.search.agent, env)
        sets = {name: load_set(job.search, name) for name in ("dev", "test")}
        result, problem = find(job.search, env, agent, sets, found_in, f"{config.model}, {goal(config)}", course)
    if job.training is not None:
        result, note = fine_tune(job.training, job.search, directory, result)
        course.end("training")
        notes.append(note)
    elif compensates(job.search, result.original):
        result, note = compensate(job.search, problem, result)
        course.end("compensation")
        notes.append(note)
    result = replace(result, notes=(verdict(config, result), *result.notes, *notes))
    write(result, directory)
    conclude(result, problem, agent, directory, job.search, course)
    return directory


def find_size(search: DictConfig, smallest: float, allowed: float, folder: Path) -> str:
    """Look for the smallest size at which a search loses no more WER on dev than is allowed, by halving the range.

    The searches take half of the budget. The other half, and the size, are left in the config.

    Args:
        search: Config of a search within a size.
        smallest: The lower end of the range, a size ratio; the upper is 1.
        allowed: WER on dev more than the original's, a fraction.
        folder: For the searches.

    Returns:
        What has been tried, for people.
    """
    step = search.copy()
    step.budget = search.budget // (2 * HALVINGS)
    step.finalists = max(1, search.finalists // HALVINGS)
    kept, lost, tried = 1.0, smallest, []
    for _ in range(HALVINGS):
        size = step.constraint.budget = round((kept + lost) / 2, 3)
        env = make_environment(step, Ledger(folder / f"{size:.3f}" / "evaluations.jsonl", step.budget))
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
        The result, and what has happened, for people.
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
    note = f"Trained on {training.data.train.root}/{training.data.train.subset}, {training.training.epochs:g} times: "
    note += f"{100 * before:.2f} % WER on dev before, {100 * after:.2f} % after"
    if after >= before:
        return result, f"{note}, so the model is left as it was."
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
    return result, f"{note}."


def compensates(search: DictConfig, model: CompressibleModel) -> bool:
    """Return whether the factors that a search finds can be fitted anew: with speech, and a model of probabilities."""
    return isinstance(model, PredictiveModel) and activation_aware(search.factorisation) is not None


def compensate(search: DictConfig, problem: SearchProblem, result: SearchResult) -> tuple[SearchResult, str]:
    """Fit the factors that were found to what the compressed model gives, and keep them if they are better on dev.

    Returns:
        The result, and what has happened, for people.
    """
    evaluator = problem.evaluator
    assert isinstance(evaluator, Evaluator)
    calibration = activation_aware(search.factorisation)
    assert calibration is not None
    if len(load_utterances(calibration.calibration, "calibration")) < 2:
        return result, "Factors were not fitted anew: that needs two utterances of calibration speech or more."
    factors = compensated(evaluator, search, result.ranks)
    fitted = {
        name: (evaluator if name == "proxy" else evaluator_on(problem, search, name)).with_factorisation(factors)
        for name in result.sets
    }
    before, after = result.sets["dev"].wer_after, fitted["dev"].evaluate(result.ranks).wer
    note = "Factors fitted anew to what the compressed model gives: "
    note += f"{100 * before:.2f} % WER on dev before, {100 * after:.2f} % after"
    if after >= before:
        return result, f"{note}, so the model is left as it was."
    return report(problem, result.ranks, fitted, {**result.config, "compensated": True}), f"{note}."


def goal(config: DictConfig) -> str:
    """``target_size=0.5`` or ``max_wer_increase=0.5``.

    Raises:
        ValueError: None or both are given, or the budget is too small for the goal.
    """
    given = {name: config[name] for name in ("target_size", "max_wer_increase") if config[name] is not None}
    if len(given) != 1:
        how_many = f"{' and '.join(f'{name}={value:g}' for name, value in given.items()) or 'neither'} is given"
        raise ValueError(
            "say what is wanted, either target_size=0.5 (of the parameters) or max_wer_increase=0.5 (points of WER): "
            f"{how_many.replace(' is', ' are') if given else how_many}"
        )
    ((name, value),) = given.items()
    if name == "max_wer_increase" and config.budget < 2 * HALVINGS:
        raise ValueError(f"budget must be at least {2 * HALVINGS} where the size is looked for, got {config.budget}")
    return f"{name}={value:g}"


def goal_overrides(config: DictConfig, model: CompressibleModel) -> list[str]:
    """Return the overrides of conf/search.yaml that suit goal and model; docs/compress-your-model.md says why."""
    predicts = isinstance(model, PredictiveModel)
    return [
        "factorisation=pivoting",
        "granularity=matrix",
        "agent=model_based",
        f"reward={'divergence' if predicts else 'accuracy'}",
        "constraint=check",
        # Where only the WER is given, the size is looked for.
        f"constraint.budget={config.target_size or 0.5}",
        "finalists=20",
    ]


def require_reachable(target: float | None, search: DictConfig, model: CompressibleModel) -> float:
    """Check that a size is not below that with every layer at its smallest candidate, which is returned.

    Raises:
        ValueError: It is.
    """
    layers = group_layers(tuple(model.layers), plain(search.granularity), plain(search.dense))
    maker = search_space_maker(part("search_space", search.search_space))
    if isinstance(maker, LevelSpace):
        # Its candidates are not known before the factors are; no layer can have less than rank 1.
        ranks = {layer.name: 1 for layer in layers if layer.break_even}
    else:
        space = maker(layers)
        layers, ranks = space.layers, space.smallest
    least = compressed_parameters(model, ranks_by_matrix(layers, ranks))
    smallest = least / count_parameters(model)
    if target is not None and target < smallest:
        raise ValueError(
            f"target_size={target:g} is out of reach: with every layer at its smallest candidate {smallest:.3f} of the "
            "parameters are left"
        )
    return smallest


def compose_search(config: DictConfig, model: CompressibleModel) -> DictConfig:
    """Return the config of the search, on the embedded sets, as ``experiments.search`` takes it."""
    for override in config.overrides:
        name = override.lstrip("+~").partition("=")[0]
        if name in OWN:
            raise ValueError(f"overrides: {override}: {name} is decided by this command's options {OWN[name]}")
    search = compose_config("search", [*goal_overrides(config, model), *config.overrides])
    search.model = config.model
    chosen = any(override.startswith("factorisation") for override in config.overrides)
    if not chosen and not isinstance(model, PredictiveModel):
        search.factorisation.weigh_rows = False  # Rows are weighed by gradients of the transcripts' probability.
    with open_dict(search):
        if "rules" in search.agent and search.constraint.get("resource", "size") == "size":
            # What they give is among what is chosen from: with many layers, few plans are as good.
            closed_form = [{"_target_": "agents.ClosedForm"}] if isinstance(model, PredictiveModel) else []
            search.agent.rules = [*closed_form, {"_target_": "agents.UniformRank"}]
    for key in PASSED_ON:
        search[key] = config[key]
    check(search)
    return search


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


def verdict(config: DictConfig, result: SearchResult) -> str:
    """Say whether what was asked for is reached, and how sure that is."""
    if config.target_size is not None:
        reached = result.size_ratio <= config.target_size
        return f"Asked for at most {config.target_size:g} of the size: {'reached' if reached else 'NOT REACHED'}."
    low, high = 100 * result.wer_increase.low, 100 * result.wer_increase.high
    allowed = config.max_wer_increase
    if result.wer_increase.value * 100 > allowed:
        found = "NOT REACHED on test"
    else:
        found = "reached on test" if high <= allowed else "reached on test, but not for certain"
    return (
        f"Asked for at most {allowed:g} points of WER more: {found}, where the 95 % interval is "
        f"[{low:+.2f}, {high:+.2f}]."
    )


@command(
    "compress",
    folder="compress",
    data=optional(NAME),
    target_size=optional(number(above=0, below=1)),
    max_wer_increase=optional(number(above=0)),
    finetune=optional(NAME),
    finetune_overrides=OVERRIDES,
)
def main(config: DictConfig) -> None:
    """One model."""
    job = prepare(config)
    print(job.data_note)
    training = "" if job.training is None else ", and the training besides"
    print(
        f"The original takes {job.seconds:.1f} s for the proxy set: {config.budget} models on it, "
        f"{job.search.finalists} on dev and the result on test will take about {max(1, round(job.whole / 60))} min in "
        f"all{training}."
    )
    compress(config, job)


if __name__ == "__main__":
    main()
