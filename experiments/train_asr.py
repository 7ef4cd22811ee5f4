"""Train a recogniser: ``python -m experiments.train_asr [architecture=las_small] [data=librispeech] [device=cuda]``.

The same command resumes a training that was stopped. To use several processes:
``torchrun --nproc-per-node N -m experiments.train_asr``.
"""

from __future__ import annotations

from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from experiments.common.command import command
from experiments.common.kinds import NAME, optional
from experiments.common.run_directory import run_directory
from experiments.common.training import is_first, load_speech, training_processes
from shrinkml_env import load_model, save_compressed
from shrinkml_env.asr import LAS, Tokenizer
from shrinkml_env.asr.training import CHECKPOINT, Trainer, read_checkpoint
from shrinkml_env.compression import round_to_storage
from shrinkml_env.data import SAMPLE_RATE, SpeechFolder


def train(config: DictConfig) -> Path:
    """Train and save a model, and return the run's directory.

    Raises:
        ValueError: The model to start from is of another kind or has other sizes.
        FileNotFoundError: The speech, or the model to start from, is missing.
    """
    torch.set_num_threads(config.threads)
    train_set, sets = load_speech(config.data, "dev")
    torch.manual_seed(config.training.seed)
    model = _make_model(config, train_set)
    directory = run_directory(config, f"{Path(config.architecture.name).name}-{config.training.seed}")
    augmentation, objective, settings = (
        instantiate(config[part], _convert_="all") for part in ("augmentation", "objective", "training")
    )
    trainer = Trainer(model, train_set, sets["dev"], augmentation, objective, settings, directory, config.device)
    if is_first():
        hours = sum(train_set.num_samples) / SAMPLE_RATE / 3600
        parameters = sum(parameter.numel() for parameter in model.parameters())
        print(f"{len(train_set)} utterances, {hours:.1f} hours; {parameters:,} parameters, the CTC head included")
        print(f"run folder: {directory}")
    trainer.run()
    if is_first():
        model.cpu().eval()
        round_to_storage(model)
        save_compressed(model, directory / "model")
        print(f"dev WER {100 * trainer.dev_wer():.2f} %; saved in {directory / 'model'}")
    return directory


def _make_model(config: DictConfig, train_set: SpeechFolder) -> LAS:
    sizes, decoding = (instantiate(part, _convert_="all") for part in (config.architecture.sizes, config.decoding))
    if config.start_from is None:
        return LAS(sizes, Tokenizer.train(train_set.texts, config.architecture.vocabulary_size), decoding)
    tokenizer, weights = _earlier(config.start_from)
    # A new model, with this run's dropout and decoder settings.
    model = LAS(sizes, tokenizer, decoding)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"start_from={config.start_from}: its sizes are not those of architecture.sizes ({error})"
        ) from error
    return model


def _earlier(start_from: str) -> tuple[Tokenizer, dict[str, Tensor]]:
    """Return the tokenizer and the weights of an unfinished run, or of a saved model, whose CTC head is initialised."""
    checkpoint = Path(start_from) / CHECKPOINT
    if checkpoint.exists():
        state = read_checkpoint(checkpoint)
        return Tokenizer.from_text(state["tokenizer"]), state["model"]
    model = load_model(start_from)
    if not isinstance(model, LAS):
        raise ValueError(f"start_from={start_from}: holds a {type(model).__name__}, not a LAS model")
    return model.tokenizer, model.state_dict()


@command("train_asr", start_from=optional(NAME))
def main(config: DictConfig) -> None:
    """Run one process of one training."""
    with training_processes(config.device):
        train(config)


if __name__ == "__main__":
    main()
