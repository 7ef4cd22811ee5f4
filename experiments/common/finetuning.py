"""Fine-tuning of a compressed model, in a folder of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import distributed, nn

from experiments.common.compose import to_container
from experiments.common.measure import measure
from experiments.common.run_directory import run_directory, write_json
from experiments.common.training import is_first, load_speech
from shrinkml_env import Utterance, change_form, count_parameters, load_model, save_compressed
from shrinkml_env.asr import LAS, Distillation
from shrinkml_env.asr.objectives import Objective
from shrinkml_env.asr.training import Trainer
from shrinkml_env.compression import form_of, inference_tensors, int8_scales, ranks_of, round_to_storage
from shrinkml_env.data import SAMPLE_RATE
from shrinkml_env.files import read_json_object

SETS = ("dev", "test")
RESULT = "result.json"


def finetune(config: DictConfig) -> Path:
    """Measure, train, round, save and measure a model; return the run's directory. A finished run is not changed.

    Raises:
        FileNotFoundError: The seed model or the speech is missing.
        ValueError: The seed model or the teacher is not a LAS model, or the run began with another seed model.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.training.seed)  # initialises the CTC head, which saved models lack
    seed_model, original = load_las(config.seed_model), load_model(config.original)
    objective = _objective(config)
    train_set, sets = load_speech(config.data, *SETS)
    way = "distilled" if config.distillation else "plain"
    directory = run_directory(config, f"{Path(config.seed_model).name}-{way}-{config.training.seed}")
    before = _measure_seed(directory, seed_model, sets["dev"]) if is_first() else {}
    if (directory / RESULT).exists():
        if is_first():
            print(f"has ended already: {directory}")
        return directory
    # Two factors reach a lower WER in the same number of steps; see change_form.
    form = form_of(seed_model)
    model = change_form(seed_model, "factors") if form == "pivoting" else seed_model
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = config.dropout
    parameters = {"original": count_parameters(original), "model": count_parameters(seed_model)}
    augmentation, settings = (instantiate(config[part], _convert_="all") for part in ("augmentation", "training"))
    trainer = Trainer(model, train_set, sets["dev"], augmentation, objective, settings, directory, config.device)
    if is_first():
        hours = sum(train_set.num_samples) / SAMPLE_RATE / 3600
        print(f"{parameters['model']:,} of {parameters['original']:,} parameters")
        print(f"{len(train_set)} utterances, {hours:.1f} hours, {settings.epochs:g} times; run folder: {directory}")
    trainer.run()
    if is_first():
        model.cpu().eval()
        if form == "pivoting":
            model = change_form(model, form)
        round_to_storage(model)
        save_compressed(model, directory / "model")
        result = {
            "config": to_container(config),
            "size_ratio": parameters["model"] / parameters["original"],
            "params": parameters,
            "file_bytes": (directory / "model" / "model.safetensors").stat().st_size,
            "ranks": ranks_of(model),
            "training": {
                "epochs": settings.epochs,
                "steps": sum(trainer.epoch_steps),
                "utterances": trainer.utterances,
                "seconds": trainer.seconds,
                "cpu_seconds": trainer.cpu_seconds,
                "processes": trainer.world,
            },
            "before": {"dev": before},
            "after": {name: _errors(model, sets[name]) for name in SETS},
        }
        write_json(directory / RESULT, result)
        print_result(result, directory)
    if distributed.is_initialized():
        distributed.barrier()  # all processes find the result after this
    return directory


def load_las(name_or_path: str) -> LAS:
    """Load a LAS model for training.

    Raises:
        ValueError: The model is of another kind, or is quantised.
    """
    model = load_model(name_or_path)
    if not isinstance(model, LAS):
        raise ValueError(f"{name_or_path} holds a {type(model).__name__}: only LAS models are trained here")
    if int8_scales(model):
        raise ValueError(f"{name_or_path} is quantised: train the model that it was made from, and quantise the result")
    return model


def _objective(config: DictConfig) -> Objective:
    objective: Objective = instantiate(config.objective)
    if config.distillation:
        options = to_container(config.distillation)
        return Distillation(load_las(options.pop("teacher")), objective, **options)
    return objective


def _errors(model: LAS, utterances: Sequence[Utterance]) -> dict[str, Any]:
    """Return a model's WER, and its word errors in each utterance for paired comparisons, as JSON."""
    counts = measure(model, utterances)
    return {"wer": counts.wer, **counts.to_json()}


def _measure_seed(directory: Path, model: LAS, dev: Sequence[Utterance]) -> dict[str, Any]:
    """Return the seed model's word errors on dev, which are measured once for each run.

    Raises:
        ValueError: The run began with another model.
    """
    path = directory / "seed.json"
    hashed = hashlib.sha256()
    for name, tensor in inference_tensors(model).items():
        hashed.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    content = hashed.hexdigest()
    if not path.exists():
        write_json(path, {"digest": content, "dev": _errors(model, dev)})
    known = read_json_object(path)
    if known.get("digest") != content or "dev" not in known:
        raise ValueError(
            f"{path}: the run was begun with another seed model of this name: remove {directory} to begin anew"
        )
    measured: dict[str, Any] = known["dev"]
    return measured


def print_result(result: Mapping[str, Any], directory: Path) -> None:
    """Print the result of a fine-tuning."""
    dev, after = result["before"]["dev"], result["after"]
    print(f"dev WER {100 * dev['wer']:.2f} % before, {100 * after['dev']['wer']:.2f} % after fine-tuning")
    print(f"test WER {100 * after['test']['wer']:.2f} %")
    training = result["training"]
    print(
        f"size ratio {result['size_ratio']:.3f} ({1 / result['size_ratio']:.1f}x smaller), "
        f"{training['utterances']:,} utterances in {training['seconds']:.0f} s ({training['cpu_seconds']:.0f} s of CPU)"
    )
    print(f"model and {RESULT}: {directory}")
