"""Fine-tune a compressed model: ``python -m experiments.finetune seed_model=DIR [distillation=original]``.

DIR is a saved model, or the run of a search or of `experiments.seed_model` that holds one; a dense model such as
``seed_model=las_small`` trains on as well. The model stays factored: its ranks stay, U and V are trained. Resumes where
it was stopped; the run directory follows from the config and holds the model and ``result.json``. Several processes:
``torchrun --nproc-per-node N -m experiments.finetune``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import distributed, nn

from experiments.common.command import command
from experiments.common.measure import measure
from experiments.common.run_directory import plain, run_directory, write_json
from experiments.common.training import is_first, load_speech, training_processes
from shrinkml_env import Utterance, count_parameters, load_model, save_compressed
from shrinkml_env.asr import LAS, Distillation
from shrinkml_env.asr.objectives import Objective
from shrinkml_env.asr.training import Trainer
from shrinkml_env.compression import int8_scales, ranks_of, round_to_storage
from shrinkml_env.data import SAMPLE_RATE
from shrinkml_env.files import read_json_object

SETS = ("dev", "test")
RESULT = "result.json"


def finetune(config: DictConfig) -> Path:
    """Measure, train, round, save, measure; returns the run's directory. A run that has ended is left as it is.

    Raises:
        FileNotFoundError: The seed model or the speech is missing.
        ValueError: The seed model or the teacher is no LAS model, or the seed model is another one than the run's.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.training.seed)  # The CTC head, which no saved model has, begins anew.
    model, original = load_las(model_in(config.seed_model)), load_model(config.original)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = config.dropout
    objective = _objective(config)
    train_set, sets = load_speech(config.data, *SETS)
    way = "distilled" if config.distillation else "plain"
    directory = run_directory(config, f"{Path(config.seed_model).name}-{way}-{config.training.seed}")
    before = _measure_seed(directory, model, sets["dev"]) if is_first() else {}
    if (directory / RESULT).exists():
        print(f"has ended already: {directory}")
        return directory
    augmentation, settings = (instantiate(config[part], _convert_="all") for part in ("augmentation", "training"))
    trainer = Trainer(model, train_set, sets["dev"], augmentation, objective, settings, directory, config.device)
    parameters = {"original": count_parameters(original), "model": count_parameters(model)}
    if is_first():
        hours = sum(train_set.num_samples) / SAMPLE_RATE / 3600
        print(f"{parameters['model']:,} of {parameters['original']:,} parameters")
        print(f"{len(train_set)} utterances, {hours:.1f} hours, {settings.epochs:g} times; run directory: {directory}")
    trainer.run()
    if is_first():
        model.cpu().eval()
        round_to_storage(model)
        save_compressed(model, directory / "model")
        result = {
            "config": plain(config),
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
            "after": {name: measure(model, sets[name]).to_json() for name in SETS},
        }
        write_json(directory / RESULT, result)
        print_result(result, directory)
    if distributed.is_initialized():
        distributed.barrier()  # Whoever goes on from here finds everything.
    return directory


def model_in(name_or_path: str) -> str:
    """Return a shipped model's name, a model's folder, or the folder of the model that a run has made.

    Raises:
        FileNotFoundError: The folder is a run's, but holds no model yet.
    """
    folder = Path(name_or_path)
    runs = [path for name in ("compressed", "model") if (path := folder / name).is_dir()]
    if runs and not (folder / "config.json").exists():
        return str(runs[0])
    if (folder / "config.yaml").exists():
        raise FileNotFoundError(f"{folder} is a run that has not made its model yet: let it end first")
    return name_or_path


def load_las(name_or_path: str) -> LAS:
    """Load a model that can be trained here.

    Raises:
        ValueError: It is of another kind, or quantised.
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
        options = plain(config.distillation)
        return Distillation(load_las(model_in(options.pop("teacher"))), objective, **options)
    return objective


def _measure_seed(directory: Path, model: LAS, dev: Sequence[Utterance]) -> dict[str, Any]:
    """Return what the seed model makes of the dev set, measured once in a run.

    Raises:
        ValueError: The run began with another model.
    """
    path = directory / "seed.json"
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if not name.startswith(model.training_only):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    if not path.exists():
        write_json(path, {"digest": digest.hexdigest(), "dev": measure(model, dev).to_json()})
    known = read_json_object(path)
    if known["digest"] != digest.hexdigest():
        raise ValueError(f"{directory} was begun with another seed model of this name: remove it to begin anew")
    measured: dict[str, Any] = known["dev"]
    return measured


def print_result(result: Mapping[str, Any], directory: Path) -> None:
    """Print the outcome."""
    dev, after = result["before"]["dev"], result["after"]
    print(f"dev WER {100 * dev['wer']:.2f} % before, {100 * after['dev']['wer']:.2f} % after fine-tuning")
    print(f"test WER {100 * after['test']['wer']:.2f} %")
    training = result["training"]
    print(
        f"size ratio {result['size_ratio']:.3f} ({1 / result['size_ratio']:.1f}x smaller), "
        f"{training['utterances']:,} utterances in {training['seconds']:.0f} s ({training['cpu_seconds']:.0f} s of CPU)"
    )
    print(f"model and {RESULT}: {directory}")


@command("finetune")
def main(config: DictConfig) -> None:
    """Run one process of one fine-tuning."""
    with training_processes(config.device):
        finetune(config)


if __name__ == "__main__":
    main()
