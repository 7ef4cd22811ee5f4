"""Train a recogniser: ``python -m experiments.train_asr [model=las_small] [data=synthetic|librispeech] [device=cuda]``.

Resumes where it was stopped. Several processes: ``torchrun --nproc-per-node N -m experiments.train_asr``.
"""

from __future__ import annotations

import os

import hydra
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import distributed

from experiments.run_directory import run_directory
from shrinkml_env import load_model, save_compressed
from shrinkml_env.asr import LAS, Tokenizer
from shrinkml_env.asr.training import Trainer
from shrinkml_env.compression import round_to_storage
from shrinkml_env.data import SpeechFolder, download_librispeech, load_utterances


@hydra.main(version_base="1.3", config_path="../conf", config_name="train_asr")
def main(config: DictConfig) -> None:
    """Data, model, training, saved model."""
    torch.set_num_threads(1)
    device = config.device
    if "RANK" in os.environ:
        distributed.init_process_group("nccl" if device == "cuda" else "gloo")
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    directory = run_directory(config, f"{config.model.name}-{config.training.seed}")
    data = OmegaConf.to_container(config.data, resolve=True)
    assert isinstance(data, dict)
    if data["download"]:
        for part in (data["train"], data["dev"]):
            download_librispeech(part["root"], part["subset"])
    train = SpeechFolder(**data["train"])
    dev = load_utterances(data["dev"])

    torch.manual_seed(config.training.seed)
    if config.start_from is None:
        tokenizer = Tokenizer.train(train.texts, config.model.vocabulary_size)
        model = LAS(instantiate(config.model.sizes), tokenizer, instantiate(config.decoding))
    else:
        loaded = load_model(config.start_from)
        if not isinstance(loaded, LAS):
            raise ValueError(
                f"start_from: {config.start_from} holds a {type(loaded).__name__}, only LAS models train here"
            )
        model = loaded
    augmentation, settings = instantiate(config.augmentation), instantiate(config.training)
    trainer = Trainer(model, train, dev, augmentation, settings, directory, device)
    if trainer.rank == 0:
        hours = sum(train.num_samples) / 16_000 / 3600
        print(f"{len(train)} utterances, {hours:.1f} hours; {sum(p.numel() for p in model.parameters()):,} parameters")
        print(f"run directory: {directory}")
    trainer.run()
    if trainer.rank == 0:
        model.cpu().eval()
        round_to_storage(model)
        save_compressed(model, directory / "model")
        print(f"dev WER {100 * trainer.dev_wer():.2f} %; saved in {directory / 'model'}")
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
