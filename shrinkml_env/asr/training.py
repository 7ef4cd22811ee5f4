"""Training of LAS models, compressed or not, on one device or several (torchrun)."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import pickle
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter

from shrinkml_env.asr.augment import spec_augment
from shrinkml_env.asr.las import LAS
from shrinkml_env.asr.objectives import IGNORED, Objective, TrainingBatch
from shrinkml_env.compression.canonical import content_bytes, digest
from shrinkml_env.compression.tensors import has_prefix
from shrinkml_env.data.augment import Augmentation
from shrinkml_env.data.librispeech import SpeechFolder
from shrinkml_env.data.utterance import SAMPLE_RATE, Utterance
from shrinkml_env.description import describe
from shrinkml_env.files import write_atomic
from shrinkml_env.progress import progress

__all__ = ["CHECKPOINT", "Trainer", "TrainingSettings", "read_checkpoint"]

CHECKPOINT = "checkpoint.pt"
"""The file in a run's directory with everything that is needed to resume."""

STATE = frozenset({"model", "tokenizer", "optimizer", "scheduler", "epoch", "step", "seconds", "fingerprint"})
"""The keys of a checkpoint."""


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """The settings of a training.

    Attributes:
        epochs: Number of passes over the training set, above 0; a fraction trains a part of the last one.
        first_epoch: Number of passes of an earlier training with the same seed; this training continues with the data
            that would have come next.
        batch_seconds: Largest amount of audio in one batch of one process, seconds, padding included.
        accumulate: Number of batches of each process whose gradients are accumulated for one step; 4 on one GPU equal 1
            on four GPUs.
        learning_rate: Peak of the one-cycle schedule (Smith and Topin 2018, arXiv 1708.07120).
        warm_up: Share of the steps before the peak, in [0, 1].
        weight_decay: Weight decay of AdamW.
        random_splits: Probability with which a subword is split in two (see `Tokenizer.encode_at_random`).
        random_history: Share of the decoder's previous subwords that are replaced by random ones, so that it relies on
            the speech more than on the preceding text.
        clip: Largest norm of the gradient.
        bfloat16: Whether to multiply in bfloat16, with weights and sums in float32; faster on processors
            that support it.
        seed: Seed of the order of the data and of the augmentation.
        checkpoint_steps: Number of steps between two checkpoints.
        workers: Number of DataLoader workers for each training process; 0 loads and augments in the training process,
            which is best with one core for each process.

    Raises:
        ValueError: `epochs`, `first_epoch` or `accumulate` is out of range.
    """

    epochs: float = 12
    first_epoch: float = 0
    batch_seconds: float = 80.0
    accumulate: int = 1
    learning_rate: float = 2e-3
    warm_up: float = 0.2
    weight_decay: float = 1e-2
    random_splits: float = 0.1
    random_history: float = 0.1
    clip: float = 5.0
    bfloat16: bool = True
    seed: int = 0
    checkpoint_steps: int = 100
    workers: int = 0

    def __post_init__(self) -> None:
        if not self.epochs > 0:
            raise ValueError(f"epochs must be above 0, got {self.epochs}")
        if self.first_epoch < 0:
            raise ValueError(f"first_epoch must be at least 0, got {self.first_epoch}")
        if self.accumulate < 1:
            raise ValueError(f"accumulate must be at least 1, got {self.accumulate}")


@dataclass(frozen=True, slots=True)
class _Batch:
    waveforms: list[Tensor]
    targets: list[list[int]]


class _Batches(Dataset[list[_Batch]]):
    """The batches of one epoch and one process, grouped by steps.

    The utterances of a batch have similar lengths; the order is random, and the same in every run with the same seed.
    """

    def __init__(
        self, data: SpeechFolder, model: LAS, augmentation: Augmentation, settings: TrainingSettings, epoch: int
    ) -> None:
        self._data = data
        self._tokenizer = model.tokenizer
        self._augmentation = augmentation
        self._seed = (settings.seed, epoch)
        self._random_splits = settings.random_splits
        rank, world = _rank_and_world()
        rng = np.random.default_rng(self._seed)
        lengths = data.num_samples
        # Noise on the lengths changes the composition of the batches in every epoch.
        order = np.argsort(np.array(lengths) * rng.uniform(0.9, 1.1, len(lengths)))
        batches: list[list[int]] = [[]]
        longest = 0
        for index in order.tolist():
            longest = max(longest, lengths[index])
            if longest * (len(batches[-1]) + 1) > settings.batch_seconds * SAMPLE_RATE and batches[-1]:
                batches.append([])
                longest = lengths[index]
            batches[-1].append(index)
        # Batches of similar length go to different processes, so that none waits; an incomplete last round is dropped.
        together = world * settings.accumulate
        rounds = [batches[start : start + together] for start in range(0, len(batches) - together + 1, together)]
        rng.shuffle(rounds)
        if not rounds:
            raise ValueError(
                f"{len(lengths)} utterances make {len(batches)} batches, fewer than the {together} that {world} "
                f"process(es) need for one step: set training.batch_seconds below {settings.batch_seconds:g}"
            )
        self._steps = [batch_round[rank::world] for batch_round in rounds]
        self.seen = [sum(len(batch) for batch in batch_round) for batch_round in rounds]
        """The number of utterances in each step, over all processes."""

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, number: int) -> list[_Batch]:
        return [self._read(batch) for batch in self._steps[number]]

    def _read(self, batch: Sequence[int]) -> _Batch:
        waveforms, targets = [], []
        for index in batch:
            utterance = self._data[index]
            state = np.random.SeedSequence((*self._seed, index)).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(state[0]))
            waveforms.append(self._augmentation(utterance.waveform, generator))
            targets.append(self._tokenizer.encode_at_random(utterance.text, self._random_splits, generator))
        return _Batch(waveforms, targets)


class _LossModule(nn.Module):
    """A model and its objective as one module, whose gradients `DistributedDataParallel` averages over processes."""

    def __init__(self, model: LAS, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, *tensors: Tensor) -> dict[str, Tensor]:
        batch = TrainingBatch(*tensors)
        outputs = self.model(batch.features, batch.lengths, batch.previous)
        return self.objective(self.model, batch, outputs)


class Trainer:
    """A trainer, which keeps checkpoints in a run directory and resumes from them.

    The parameters of low-rank modules are their factors, so that ranks do not change.

    Args:
        model: The model, with random or trained weights.
        train: The training set.
        dev: Utterances whose WER is measured after every epoch.
        augmentation: Augmentation of the training waveforms.
        objective: The loss to minimise.
        settings: The settings of the training.
        directory: The folder of the checkpoint and the TensorBoard log; the model is saved by the caller.
        device: ``"cpu"`` or ``"cuda"``.

    Attributes:
        seconds: Wall-clock seconds of all steps so far, also those before a resumption, without measurements.
        cpu_seconds: CPU seconds of these steps in this process, which hardly depend on other load of the machine.

    Raises:
        ValueError: The checkpoint is damaged, or belongs to another training set, tokenizer, model or number of
            processes; the training set is too small for one step; or a transcript has no letter of the model's.
    """

    def __init__(
        self,
        model: LAS,
        train: SpeechFolder,
        dev: Sequence[Utterance],
        augmentation: Augmentation,
        objective: Objective,
        settings: TrainingSettings,
        directory: Path,
        device: str = "cpu",
    ) -> None:
        self.model = model.to(device)
        self.train_set = train
        self.dev_set = dev
        self.augmentation = augmentation
        self.objective = objective
        self.settings = settings
        self.directory = directory
        self.device = torch.device(device)
        self.rank, self.world = _rank_and_world()
        for utterance_id, text in zip(train.ids, train.texts, strict=True):
            if not model.normalise(text):
                raise ValueError(f"transcript of {utterance_id}: the model has no letter of {text!r}; leave it out")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not has_prefix(name, objective.unused_parameters))
        module = _LossModule(self.model, objective)
        self.loss_module: nn.Module = nn.parallel.DistributedDataParallel(module) if self.world > 1 else module
        self.optimizer = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        self._parts = self._plan()
        self.epoch_steps = [len(part) for _, part in self._parts]
        steps = sum(self.epoch_steps)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            max_lr=settings.learning_rate,
            total_steps=steps,
            # With a warm-up of exactly one step the scheduler would divide 0 by 0.
            pct_start=0.0 if settings.warm_up * steps == 1 else settings.warm_up,
        )
        self.epoch = 0
        self.step = 0
        self.seconds = self.cpu_seconds = 0.0
        directory.mkdir(parents=True, exist_ok=True)
        self._resume()

    def run(self) -> None:
        """Train until all steps are done."""
        done = sum(self.epoch_steps[: self.epoch]) + self.step
        log = str(self.directory / "tensorboard")
        writer = SummaryWriter(log, purge_step=done + 1) if self.rank == 0 else None
        silent = self.rank > 0 or bool(os.environ.get("TQDM_DISABLE"))
        with (
            progress(total=sum(self.epoch_steps), initial=done, desc="train", disable=silent, smoothing=0.05) as bar,
            writer or nullcontext(),
        ):
            while self.epoch < len(self.epoch_steps):
                for losses in self._train_epoch():
                    bar.update()
                    if writer is not None:
                        done += 1
                        for name, value in losses.items():
                            writer.add_scalar(f"train/{name}", value, done)
                        bar.set_postfix(epoch=self.epoch, loss=f"{losses['loss']:.2f}", refresh=False)
                self.epoch, self.step = self.epoch + 1, 0
                if writer is not None:
                    error_rate = self.dev_wer()
                    bar.write(f"epoch {self.epoch}: dev WER {100 * error_rate:.2f} %")
                    writer.add_scalar("dev/wer", error_rate, done)
                    writer.flush()
                    # Last, so that a kill before it repeats the measurement.
                    self._save_checkpoint()

    @property
    def utterances(self) -> int:
        """The number of utterances in all steps so far, over all processes, repetitions included."""
        steps = [*self.epoch_steps[: self.epoch], self.step]
        return sum(
            sum(self._batches(epoch).seen[part.start : part.start + count])
            for (epoch, part), count in zip(self._parts, steps, strict=False)
        )

    def dev_wer(self) -> float:
        """Return the model's corpus WER on the dev set, a fraction."""
        training = self.model.training
        self.model.eval()
        transcripts = self.model.transcribe([utterance.waveform for utterance in self.dev_set])
        hypotheses = [self.model.normalise(transcript) for transcript in transcripts]
        self.model.train(training)
        references = [self.model.normalise(utterance.text) for utterance in self.dev_set]
        return float(jiwer.wer(references, hypotheses))

    def _plan(self) -> list[tuple[int, range]]:
        """Return the steps to train: (number of the epoch, range of its steps) for each epoch."""
        begin, end = self.settings.first_epoch, self.settings.first_epoch + self.settings.epochs
        parts = []
        for epoch in range(math.floor(begin), math.ceil(end)):
            # Epochs have different batches, and their numbers may differ by one.
            count = len(self._batches(epoch))
            first, last = (round(count * min(1.0, max(0.0, bound - epoch))) for bound in (begin, end))
            parts.append((epoch, range(first, last)))
        # At least one step is trained.
        return [(epoch, steps) for epoch, steps in parts if steps] or [(parts[-1][0], range(1))]

    def _batches(self, epoch: int) -> _Batches:
        return _Batches(self.train_set, self.model, self.augmentation, self.settings, epoch)

    def _train_epoch(self) -> Iterator[dict[str, float]]:
        self.model.train()
        epoch, steps = self._parts[self.epoch]
        remaining = torch.utils.data.Subset(self._batches(epoch), steps[self.step :])
        begun = time.perf_counter(), time.process_time()
        for batches_of_step in DataLoader(remaining, batch_size=None, num_workers=self.settings.workers):
            # Every step has its own seed, so that a resumed run draws the same dropout as an uninterrupted one.
            torch.manual_seed(hash((self.settings.seed, epoch, steps[self.step], self.rank)))
            losses = self._train_step(batches_of_step)
            self.step += 1
            self.seconds += time.perf_counter() - begun[0]
            self.cpu_seconds += time.process_time() - begun[1]
            if self.rank == 0 and self.step % self.settings.checkpoint_steps == 0:
                self._save_checkpoint()
            yield losses
            begun = time.perf_counter(), time.process_time()

    def _train_step(self, batches: Sequence[_Batch]) -> dict[str, float]:
        self.optimizer.zero_grad()
        means: dict[str, float] = {}
        for number, batch in enumerate(batches, start=1):
            tensors = self._training_batch(batch)
            # The processes average their gradients only at the last batch of a step.
            with nullcontext() if number == len(batches) else self._without_gradient_sync():
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
                    losses = self.loss_module(*tensors)
                (losses["loss"] / len(batches)).backward()
            for name, loss in losses.items():
                means[name] = means.get(name, 0.0) + loss.item() / len(batches)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        # A step whose gradient overflows is skipped; the norm is that of the averaged gradient, so all processes agree.
        if norm.isfinite():
            self.optimizer.step()
        self.scheduler.step()
        return {
            **means,
            "gradient_norm": norm.item(),
            "learning_rate": float(self.scheduler.get_last_lr()[0]),
        }

    def _without_gradient_sync(self) -> AbstractContextManager[None]:
        """Return a context in which gradients are not averaged over processes."""
        module = self.loss_module
        return module.no_sync() if isinstance(module, nn.parallel.DistributedDataParallel) else nullcontext()

    def _training_batch(self, batch: _Batch) -> TrainingBatch:
        features, lengths = self.model.features(batch.waveforms)
        features = spec_augment(features, lengths)
        eos = self.model.tokenizer.eos
        target_lengths = torch.tensor([len(units) for units in batch.targets], device=self.device)
        targets = nn.utils.rnn.pad_sequence(
            [torch.tensor(units, dtype=torch.long) for units in batch.targets], batch_first=True, padding_value=eos
        ).to(self.device)
        # Labels are the units, one end of sentence, then IGNORED.
        position = torch.arange(targets.shape[1] + 1, device=self.device)
        labels = functional.pad(targets, (0, 1), value=eos).masked_fill(position > target_lengths[:, None], IGNORED)
        previous = functional.pad(targets, (1, 0), value=eos)
        wrong = torch.rand(targets.shape, device=self.device) < self.settings.random_history
        guesses = torch.randint(len(self.model.tokenizer), targets.shape, device=self.device)
        previous[:, 1:] = torch.where(wrong, guesses, targets)
        return TrainingBatch(features, lengths, targets, target_lengths, previous, labels)

    def _save_checkpoint(self) -> None:
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "tokenizer": self.model.tokenizer.to_text(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "seconds": (self.seconds, self.cpu_seconds),
            "fingerprint": self._fingerprint,
        }
        target = self.directory / CHECKPOINT
        content = io.BytesIO()
        torch.save(state, content)
        write_atomic(target, content.getvalue())

    @cached_property
    def _fingerprint(self) -> str:
        """The hash of what determines each step: data, tokenizer, parameter shapes, objective, teacher, settings."""
        sizes = {name: list(parameter.shape) for name, parameter in self.model.named_parameters()}
        data = [self.train_set.texts, self.train_set.num_samples, [(epoch, str(part)) for epoch, part in self._parts]]
        settings = {**asdict(self.settings), **asdict(self.augmentation)}
        for name in ("workers", "checkpoint_steps"):  # They change no step.
            del settings[name]
        teacher = getattr(self.objective, "teacher", None)
        taught = [] if teacher is None else [digest(map(content_bytes, teacher.state_dict().values()))]
        content = [self.model.tokenizer.to_text(), sizes, *data, settings, describe(self.objective), taught]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _resume(self) -> None:
        path = self.directory / CHECKPOINT
        if not path.exists():
            return
        state = read_checkpoint(path, self.device)
        if state["fingerprint"] != self._fingerprint:
            raise ValueError(
                f"{path} belongs to another training set, model, objective, number of processes or settings: resume "
                "with those, or remove it to begin anew"
            )
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            self.epoch, self.step = state["epoch"], state["step"]
            self.seconds, self.cpu_seconds = state["seconds"]
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: damaged ({' '.join(str(error).split())}); remove it to begin anew") from error


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint; only tensors and plain values are unpickled.

    Args:
        path: The file.
        device: The device of the tensors.

    Returns:
        A mapping with the keys of `STATE`.

    Raises:
        ValueError: The file is damaged or is not a checkpoint.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        if not zipfile.is_zipfile(content):
            raise ValueError("no archive")
        content.seek(0)
        state = torch.load(content, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        cause = str(error).partition("\n")[0]
        raise ValueError(f"{path}: not a whole checkpoint of a training ({cause}); remove it to begin anew") from error
    if not isinstance(state, dict) or not state.keys() >= STATE:
        raise ValueError(f"{path}: not a checkpoint of a training; remove it to begin anew")
    return state


def _rank_and_world() -> tuple[int, int]:
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()
