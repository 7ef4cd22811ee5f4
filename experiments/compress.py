"""Make a model smaller: ``python -m experiments.compress model=MODEL data=FOLDER target_size=0.5``.

Or ``max_wer_increase=0.5``, in points, which first looks for the size. Splits the data by speaker, checks that model
and data go together, searches with the settings that suit the goal, with ``finetune=FOLDER`` trains what was found on
more speech, and leaves the compressed model and a report in one folder. Started again, the same command resumes.
"""

from __future__ import annotations

import importlib
import shutil
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.common.agent import make_agent
from experiments.common.command import command
from experiments.common.compose import compose_config
from experiments.common.environment import make_environment
from experiments.common.measure import measure
from experiments.common.parts import part
from experiments.common.run_directory import plain, run_directory
from experiments.finetune import RESULT, finetune, load_las
from experiments.search import check, conclude, find
from shrinkml_env import (
    CompressibleModel,
    Evaluator,
    Ledger,
    SearchResult,
    Utterance,
    count_parameters,
    load_model,
    load_utterances,
)
from shrinkml_env.asr.text import characters, compose
from shrinkml_env.asr.zoo import SHIPPED_MODELS
from shrinkml_env.compression import PredictiveModel, compressed_parameters, ranks_by_matrix, require_length
from shrinkml_env.data import SpeechFolder
from shrinkml_env.data.split import split, spread
from shrinkml_env.envs.assembly import make_reward, make_search_space
from shrinkml_env.evaluation import recognise_all, word_edits
from shrinkml_env.evaluation.evaluator import group_layers
from shrinkml_env.evaluation.intervals import wer_increase
from shrinkml_env.files import read_json_object
from shrinkml_env.mdp.rewards import signal_of
from shrinkml_env.search import choose, explore
from shrinkml_env.search_directory import write
from shrinkml_env.search_result import SetResult

HOPELESS = 0.8
"""WER of an original that shows that model and transcripts do not go together."""

HALVINGS = 4
"""Of the range of sizes, in search for the smallest that loses no more than is allowed."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is wanted, checked.

    Attributes:
        title: Of the folder.
        search: Config of the search, but for its sets, and for its size where that is looked for.
        smallest: Size ratio below which there is nothing to choose.
        parts: Part -> ids of its utterances; empty for the embedded sets.
        folder: The data, if it is not the embedded.
        data_note: What was split how, for people.
        training: Config of the fine-tuning, but for its models and sets; None without one.
        seconds: That the original takes for the proxy set.
    """

    title: str
    search: DictConfig
    smallest: float
    parts: dict[str, list[str]]
    folder: Path | None
    data_note: str
    training: DictConfig | None
    seconds: float


def prepare(config: DictConfig) -> Job:
    """Look at the goal, the model and every audio file that will be used. Writes nothing.

    Raises:
        ValueError: The goal, the model, the data or their combination is wrong.
        FileNotFoundError: There is no such model or data.
        ImportError: A package is not installed, or a module of `imports` not there.
    """
    if config.max_wer_increase is not None and config.budget < 2 * HALVINGS:
        raise ValueError(f"budget must be at least {2 * HALVINGS} where the size is looked for, got {config.budget}")
    for name, limit in config.utterances.items():
        if limit < 1:
            raise ValueError(f"utterances.{name!s} must be at least 1, got {limit}")
    title = f"{Path(config.model.rpartition(':')[2]).name}-{goal(config).replace('=', '-')}"
    for module in config.imports:
        importlib.import_module(module)
    model: Any = load_model(config.model)
    model = model.to(config.device)
    search = compose_search(config, model)
    smallest = smallest_size(search, model)
    if config.target_size is not None and config.target_size < smallest:
        raise ValueError(
            f"target_size={config.target_size:g} is out of reach: with every layer at its smallest candidate "
            f"{smallest:.3f} of the parameters are left"
        )
    speech = None if config.finetune is None else data_folder(config.finetune)
    training = None if speech is None else compose_training(config, model, speech)
    if config.data is None:
        if config.model not in SHIPPED_MODELS:
            raise ValueError("data=FOLDER is missing: the embedded speech is for las_small, other models need theirs")
        note = "The speech is the embedded one, which is synthetic: it says nothing about people's voices."
        note += heard(speech, {utterance.speaker for utterance in load_utterances("test")})
        seconds = require_recognition(model, load_utterances("proxy"))
        return Job(title, search, smallest, {}, None, note, training, seconds)
    folder = data_folder(config.data)
    speakers, ids = folder.speakers, folder.ids
    parts = {
        name: spread(indices, speakers, config.utterances[name], config.seed)
        for name, indices in split(speakers, config.seed).items()
    }
    for indices in parts.values():
        for index in indices:
            require_length(model, folder.num_samples[index], f"utterance {ids[index]!r}")
    if signal_of(make_reward(part("reward", search.reward))) == "divergence":
        require_predictions(model, folder, [index for indices in parts.values() for index in indices])
    for indices in parts.values():
        require_spelling(model, [(folder[index].id, folder[index].text) for index in indices], config.data)
    seconds = require_recognition(model, [folder[index] for index in parts["proxy"]])
    named = {name: [ids[index] for index in indices] for name, indices in parts.items()}
    note = describe(folder, parts) + heard(speech, {speakers[index] for index in parts["test"]})
    return Job(title, search, smallest, named, folder.folder, note, training, seconds)


def compress(config: DictConfig, job: Job) -> Path:
    """Make one model smaller; returns its folder."""
    directory = run_directory(config, job.title)
    for name, ids in job.parts.items():
        assert job.folder is not None
        path = directory / f"{name}.txt"
        path.write_text("".join(f"{utterance_id}\n" for utterance_id in ids), encoding="utf-8")
        job.search[name] = {"root": str(job.folder.parent), "subset": job.folder.name, "ids": str(path)}
    if job.parts and job.search.factorisation.get("calibration") == "calibration":
        # The embedded speech is for the embedded model; this may be heard as well as any other that is not reported.
        job.search.factorisation.calibration = job.search.proxy
    notes = [job.data_note]
    if config.max_wer_increase is not None:
        notes.append(find_size(job.search, job.smallest, config.max_wer_increase / 100, directory / "sizes"))
    OmegaConf.save(job.search, directory / "search.yaml", resolve=True)
    result, problem = find(job.search, directory, f"{config.model}, {goal(config)}")
    if job.training is not None:
        result, note = fine_tune(job.training, job.search, directory, result)
        notes.append(note)
    result = replace(result, notes=(verdict(config, result), *result.notes, *notes))
    write(result, directory)
    conclude(result, problem, directory)
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
    kept, lost, told = 1.0, smallest, []
    for _ in range(HALVINGS):
        size = step.constraint.budget = round((kept + lost) / 2, 3)
        env = make_environment(step, Ledger(folder / f"{size:.3f}" / "evaluations.jsonl", step.budget))
        problem = explore(env, make_agent(step.agent, env))
        dev = problem.evaluator.on(load_utterances(plain(step.dev)))
        chosen = choose(problem, dev, step.finalists)
        increase = chosen.wer - dev.baseline.wer
        told.append(f"{100 * increase:+.2f} points at {size:g}")
        if increase <= allowed and chosen.size_ratio <= size:
            kept = size
        else:
            lost = size
    search.budget -= HALVINGS * step.budget
    # If nothing was good enough, the largest that was tried: the report tells what it costs.
    search.constraint.budget = kept if kept < 1 else lost
    return f"Sizes looked at first, with {step.budget} evaluations each, and what they cost on dev: {', '.join(told)}."


def fine_tune(
    training: DictConfig, search: DictConfig, directory: Path, result: SearchResult
) -> tuple[SearchResult, str]:
    """Train the compressed model on, and keep the outcome if it is better on dev.

    Returns:
        The result, and what has happened, for people.
    """
    truncated = directory / "truncated"
    shutil.copytree(directory / "compressed", truncated, dirs_exist_ok=True)
    training = training.copy()
    training.merge_with({"seed_model": str(truncated), "original": str(directory / "original")})
    training.merge_with({"outputs": str(directory / "finetune")})
    for name in ("dev", "test"):
        training.data[name] = search[name]
    run = finetune(training)
    outcome = read_json_object(run / RESULT)
    before, after = (outcome[when]["dev"]["wer"] for when in ("before", "after"))
    told = f"Trained on {training.data.train.root}/{training.data.train.subset}, {training.training.epochs:g} times: "
    told += f"{100 * before:.2f} % WER on dev before, {100 * after:.2f} % after"
    if after >= before:
        return result, f"{told}, so the model is left as it was."
    trained: Any = load_model(str(run / "model"))
    sets, increase = {}, result.wer_increase
    for name in result.sets:
        then, now = (measure(model, load_utterances(plain(search[name]))) for model in (result.original, trained))
        sets[name] = SetResult.of(then, now)
        if name == "test":
            increase = wer_increase(now.edits, then.edits, then.words)
    # The search's rewards are of another model now.
    return replace(result, model=trained, sets=sets, rewards={}, wer_increase=increase), f"{told}."


def goal(config: DictConfig) -> str:
    """``target_size=0.5`` or ``max_wer_increase=0.5``.

    Raises:
        ValueError: None or both are given, or one is out of range.
    """
    given = {name: config[name] for name in ("target_size", "max_wer_increase") if config[name] is not None}
    if len(given) != 1:
        raise ValueError(
            "say what is wanted, one of target_size=0.5 (of the parameters) and max_wer_increase=0.5 (points of WER)"
        )
    ((name, value),) = given.items()
    if not isinstance(value, int | float) or value <= 0 or (name == "target_size" and value >= 1):
        wanted = "between 0 and 1: a share" if name == "target_size" else "above 0: in points of WER"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return f"{name}={value:g}"


def goal_overrides(config: DictConfig, model: CompressibleModel) -> list[str]:
    """Of conf/search.yaml, what suits the goal and the model; docs/compress-your-model.md tells why."""
    reward = "divergence" if isinstance(model, PredictiveModel) else "accuracy"
    return [
        "factorisation=activation_aware",
        "agent=model_based",
        f"reward={reward}",
        "constraint=check",
        # Where only the WER is given, the size is looked for.
        f"constraint.budget={config.target_size or 0.5}",
        "finalists=20",
    ]


def smallest_size(search: DictConfig, model: CompressibleModel) -> float:
    """Return the size ratio with every layer at its smallest candidate."""
    layers = group_layers(tuple(model.layers), plain(search.granularity))
    space = make_search_space(layers, part("search_space", search.search_space))
    return compressed_parameters(model, ranks_by_matrix(space.layers, space.smallest)) / count_parameters(model)


def data_folder(data: str) -> SpeechFolder:
    """The data set, its lists read and its files' headers checked."""
    path = Path(data)
    if not path.is_dir():
        raise FileNotFoundError(f"data={data}: no such folder")
    folder = SpeechFolder(path.absolute().parent, path.absolute().name)
    _ = folder.num_samples
    return folder


def describe(folder: SpeechFolder, parts: Mapping[str, Sequence[int]]) -> str:
    """What was split how, and what is held out."""
    speakers = folder.speakers
    voices = {name: {speakers[index] for index in indices} for name, indices in parts.items()}
    sizes = ", ".join(
        f"{name} has {len(indices)} utterances of {len(voices[name])} speaker{'s' * (len(voices[name]) > 1)}"
        for name, indices in parts.items()
    )
    if voices["test"] & (voices["proxy"] | voices["dev"]):
        held_out = "There are too few speakers to hold any out: the result is for these voices, on other sentences."
    elif voices["proxy"] & voices["dev"]:
        held_out = "No voice of test is in another part; proxy and dev share theirs."
    else:
        held_out = "No voice is in two parts."
    used = sum(len(indices) for indices in parts.values())
    return f"Of {len(folder)} utterances in {folder.folder}, {used} are used: {sizes}. {held_out}"


def heard(speech: SpeechFolder | None, test: Set[str]) -> str:
    """Which speakers of test, if any, are in the training speech, going by their names."""
    if speech is None:
        return ""
    known = sorted(test & set(speech.speakers))
    if not known:
        return " No speaker of test is in the speech that is trained on."
    return (
        f" {len(known)} of test's {len(test)} speakers are, by name, in the speech that is trained on "
        f"({known[0]} for one): the result is for known voices."
    )


def require_spelling(model: CompressibleModel, transcripts: Sequence[tuple[str, str]], where: str) -> None:
    """Check that the model can write what the transcripts, (utterance id, text), hold.

    Raises:
        ValueError: A transcript has a letter or digit that the model's text normaliser drops, or no word at all.
    """

    @cache
    def dropped(character: str) -> bool:
        return character[0].isalnum() and not model.normalise(character)

    for utterance_id, text in transcripts:
        unknown = [character for character in characters(compose(text)) if dropped(character)]
        if unknown or not model.normalise(text):
            lacks = f"{unknown[0]!r} is no letter of this model" if unknown else "no word of it is left"
            raise ValueError(
                f"{where}, transcript of {utterance_id}: {lacks}: {text!r}; spell it as the model does, or "
                "take data in its language"
            )


def require_predictions(model: CompressibleModel, folder: SpeechFolder, indices: Sequence[int]) -> None:
    """Check that the divergence can be measured of the longest utterance.

    Raises:
        ValueError: It cannot.
    """
    longest = folder[max(indices, key=lambda index: folder.num_samples[index])]
    try:
        _ = Evaluator(model, [longest], divergence=True).baseline
    except ValueError as error:
        raise ValueError(f"{longest.id}: {error}: overrides=['reward=accuracy']") from error


def require_recognition(model: CompressibleModel, utterances: Sequence[Utterance]) -> float:
    """Check that the original recognises anything at all, before hours are spent on making it smaller.

    Returns:
        Seconds that it takes.

    Raises:
        ValueError: It does not.
    """
    begun = time.perf_counter()
    hypotheses = recognise_all(model, utterances)
    seconds = time.perf_counter() - begun
    pairs = [(model.normalise(u.text), model.normalise(h.text)) for u, h in zip(utterances, hypotheses, strict=True)]
    edits, words = (sum(column) for column in zip(*(word_edits(*pair) for pair in pairs), strict=True))
    if edits > HOPELESS * words:
        reference, hypothesis = pairs[0]
        raise ValueError(
            f"the original model gets {100 * edits / words:.0f} % of the words wrong: are data and transcripts what it "
            f"was trained for? {utterances[0].id} says {reference!r}, the model {hypothesis!r}"
        )
    return seconds


def compose_search(config: DictConfig, model: CompressibleModel) -> DictConfig:
    """The config of the search, on the embedded sets: ``experiments.search`` with the same settings does the same."""
    search = compose_config("search", [*goal_overrides(config, model), *config.overrides])
    search.model = config.model
    with open_dict(search):
        if "rules" in search.agent and search.constraint.get("resource", "size") == "size":
            # So that uniform ranks are among what is chosen from: with many layers, few plans are as good.
            search.agent.rules = [{"_target_": "agents.UniformRank"}]
    for key in ("budget", "seed", "device", "workers", "memory_mb", "imports"):
        search[key] = config[key]
    check(search)
    return search


def compose_training(config: DictConfig, model: CompressibleModel, speech: SpeechFolder) -> DictConfig:
    """The config of the fine-tuning, but for its models, and the sets it is measured on.

    Raises:
        ValueError: Models like this one are not trained here, or the speech is that of `data`, or misspelt.
    """
    load_las(config.model)
    if config.data is not None and Path(config.data).resolve() == Path(config.finetune).resolve():
        raise ValueError(f"finetune={config.finetune} is data as well: what is measured must not be trained on")
    require_spelling(model, list(zip(speech.ids, speech.texts, strict=True)), config.finetune)
    training = compose_config("finetune", ["distillation=original", *config.finetune_overrides])
    training.data.train = {"root": str(speech.folder.parent), "subset": speech.folder.name}
    training.device = config.device
    return training


def verdict(config: DictConfig, result: SearchResult) -> str:
    """Whether what was asked for is reached, and how sure that is."""
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


@command("compress", folder="compress")
def main(config: DictConfig) -> None:
    """One model."""
    torch.set_num_threads(1)
    job = prepare(config)
    print(job.data_note)
    minutes = config.budget * job.seconds / 60
    print(
        f"Proxy set: {job.seconds:.1f} s with the original, so about {minutes:.0f} minutes for {config.budget} models."
    )
    compress(config, job)


if __name__ == "__main__":
    main()
