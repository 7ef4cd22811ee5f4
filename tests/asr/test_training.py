import copy
import itertools

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shrinkml_env.asr import (
    Augmentation,
    Distillation,
    JointCTCAttention,
    training,
)
from shrinkml_env.asr.training import Trainer, TrainingSettings
from shrinkml_env.compression import (
    compress,
    decompress,
    load_compressed,
    ranks_of,
    round_to_storage,
    save_compressed,
)
from shrinkml_env.data import SpeechFolder
from tests.helpers.speech import LIBRISPEECH, PLAIN, make_learner


def make_trainer(corpus, directory, augmentation=PLAIN, model=None, objective=None, **settings):
    options = {"epochs": 2, "batch_seconds": 2.0, "checkpoint_steps": 1, **settings}
    return Trainer(
        model or make_learner(corpus), corpus, list(corpus), augmentation, objective or JointCTCAttention(),
        TrainingSettings(**options), directory,
    )  # fmt: skip


@pytest.mark.slow
def test_learns_to_tell_tones_apart(corpus, tmp_path):
    trainer = make_trainer(
        corpus, tmp_path / "run", epochs=80, batch_seconds=20.0, learning_rate=1e-2, checkpoint_steps=1000,
        objective=JointCTCAttention(label_smoothing=0.0),
    )  # fmt: skip
    before = trainer.dev_wer()
    trainer.run()
    assert trainer.dev_wer() < 0.2 < before
    assert list((tmp_path / "run" / "tensorboard").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [{}, {"encoder.1": 6, "decoder.lstm": 4}])
def test_a_killed_training_resumes_to_the_same_weights(corpus, tmp_path, monkeypatch, ranks):
    def make(directory):
        teacher = make_learner(corpus)
        objective = Distillation(teacher, JointCTCAttention(0.0)) if ranks else JointCTCAttention()
        model = copy.deepcopy(compress(teacher, ranks))
        return make_trainer(corpus, tmp_path / directory, Augmentation(), model, objective)

    whole = make("whole")
    whole.run()

    calls = itertools.count()

    augment = Augmentation.__call__

    def killed(self, waveform, generator):
        if next(calls) == 12:
            raise KeyboardInterrupt
        return augment(self, waveform, generator)

    interrupted = make("killed")
    with monkeypatch.context() as patch:
        patch.setattr(Augmentation, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            interrupted.run()
    resumed = make("killed")
    assert (resumed.epoch, resumed.step) != (0, 0)
    assert resumed.seconds > 0
    resumed.run()
    assert resumed.utterances == whole.utterances
    for name, parameter in whole.model.state_dict().items():
        assert torch.equal(parameter, resumed.model.state_dict()[name]), name


def test_half_an_epoch_takes_half_the_steps(corpus, tmp_path):
    whole = make_trainer(corpus, tmp_path / "whole", epochs=2)
    part = make_trainer(corpus, tmp_path / "part", epochs=1.5)
    assert part.epoch_steps == [whole.epoch_steps[0], round(whole.epoch_steps[1] / 2)]
    assert part.utterances == 0
    whole.run()
    part.run()
    assert (part.epoch, part.step) == (2, 0)
    assert whole.utterances == 2 * len(corpus)
    assert len(corpus) < part.utterances < 2 * len(corpus)
    assert part.seconds > 0


@pytest.mark.parametrize("bounds", [(0, 1 / 3, 2 / 3, 1), (0, 0.9, 1.4, 2)])
def test_stages_hear_together_what_one_training_hears(corpus, tmp_path, bounds):
    def waveforms_of(folder, **settings):
        trainer = make_trainer(corpus, tmp_path / folder, **settings)
        waveforms = []
        training_batch = trainer._training_batch
        trainer._training_batch = lambda batch: (
            waveforms.append([wave.tolist() for wave in batch.waveforms]) or training_batch(batch)
        )
        trainer.run()
        return waveforms

    stages = []
    for number, (begin, end) in enumerate(itertools.pairwise(bounds)):
        stages += waveforms_of(f"{number}", first_epoch=begin, epochs=end - begin)
    assert stages == waveforms_of("whole", epochs=bounds[-1])


def test_a_rise_in_one_step(corpus, tmp_path):
    """torch's scheduler divides by zero there."""
    trainer = make_trainer(corpus, tmp_path, epochs=4, batch_seconds=20.0, warm_up=0.25, learning_rate=1e-2)
    assert trainer.epoch_steps == [1] * 4
    rates = []
    trainer.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    trainer.run()
    assert rates == sorted(rates, reverse=True)
    assert 5e-3 < rates[0] <= 1e-2


RANKS = {"encoder.0": 5, "encoder.1": 6, "decoder.lstm": 4, "decoder.output": 5}


def test_factors_are_trained_and_the_ranks_stay(corpus, tmp_path):
    dense = make_learner(corpus)
    model = copy.deepcopy(compress(dense, RANKS))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    make_trainer(corpus, tmp_path, model=model, objective=JointCTCAttention(0.0), epochs=1).run()
    assert ranks_of(model) == ranks_of(compress(dense, RANKS))
    factors = [name for name in before if name.endswith(("_u", "_v"))]
    assert len(factors) == 2 * len(ranks_of(model)) == 2 * (4 + 4 + 2 + 1)
    for name, parameter in model.named_parameters():
        assert torch.equal(before[name], parameter) == name.startswith("ctc."), name
        assert parameter.isfinite().all()
    model.eval()
    round_to_storage(model)
    save_compressed(model, tmp_path / "model")
    waveforms = [utterance.waveform for utterance in corpus]
    assert load_compressed(tmp_path / "model").transcribe(waveforms) == model.transcribe(waveforms)


def test_factors_have_the_gradients_of_their_product(corpus, tmp_path):
    """The chain rule by hand: W = U V, so dL/dU = dL/dW V^T and dL/dV = U^T dL/dW."""
    model = copy.deepcopy(compress(make_learner(corpus), RANKS))
    dense = decompress(model)
    gradients = []
    for name, each in ("factored", model), ("dense", dense):
        trainer = make_trainer(corpus, tmp_path / name, model=each.eval(), bfloat16=False)
        torch.manual_seed(0)
        tensors = trainer._training_batch(trainer._batches(0)[0][0])
        trainer.loss_module(*tensors)["loss"].backward()
        gradients.append({name: parameter.grad for name, parameter in each.named_parameters()})
    factored, whole = gradients
    for name in ranks_of(model):
        u, v = (model.get_parameter(f"{name}_{suffix}").detach() for suffix in "uv")
        torch.testing.assert_close(factored[f"{name}_u"], whole[name] @ v.T, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(factored[f"{name}_v"], u.T @ whole[name], rtol=1e-3, atol=1e-5)
        assert factored[f"{name}_u"].any()


def test_another_training_sets_checkpoint_is_refused(corpus, tmp_path):
    make_trainer(corpus, tmp_path / "run", epochs=1).run()
    smaller = SpeechFolder(corpus.folder.parent, "train", limit=8)
    with pytest.raises(ValueError, match=r"checkpoint\.pt belongs to another training set"):
        make_trainer(smaller, tmp_path / "run", epochs=1)
    with pytest.raises(ValueError, match="training set, model, objective, number of processes or settings"):
        make_trainer(corpus, tmp_path / "run", model=compress(make_learner(corpus), {"encoder.0": 4}), epochs=1)


def test_other_settings_are_another_training(corpus, tmp_path):
    """The state of optimiser and schedule in a checkpoint would replace them without a word."""
    make_trainer(corpus, tmp_path / "run", epochs=1).run()
    for other in ({"seed": 1}, {"learning_rate": 1e-4}, {"random_history": 0.5}):
        with pytest.raises(ValueError, match="training set, model, objective, number of processes or settings"):
            make_trainer(corpus, tmp_path / "run", epochs=1, **other)
    with pytest.raises(ValueError, match="training set, model, objective, number of processes or settings"):
        make_trainer(corpus, tmp_path / "run", Augmentation(), epochs=1)
    # These change no step.
    make_trainer(corpus, tmp_path / "run", epochs=1, checkpoint_steps=7, workers=1)


def test_another_objective_or_teacher_is_another_training(corpus, tmp_path):
    def distil(teacher):
        return Distillation(teacher, JointCTCAttention())

    teacher, other = make_learner(corpus), make_learner(corpus)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    make_trainer(corpus, tmp_path / "run", objective=distil(teacher), epochs=1).run()
    make_trainer(corpus, tmp_path / "run", objective=distil(teacher), epochs=1)
    for objective in (distil(other), JointCTCAttention(), Distillation(teacher, JointCTCAttention(), weight=1.0)):
        with pytest.raises(ValueError, match="training set, model, objective, number of processes or settings"):
            make_trainer(corpus, tmp_path / "run", objective=objective, epochs=1)


def test_a_resumed_training_leaves_every_point_in_tensorboard(corpus, tmp_path):
    first = make_trainer(corpus, tmp_path, epochs=1)
    first.run()
    steps = sum(first.epoch_steps)
    make_trainer(corpus, tmp_path, epochs=1).run()  # nothing is left to do
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("train/loss")] == list(range(1, steps + 1))
    assert [event.step for event in board.Scalars("dev/wer")] == [steps]


def test_a_transcript_without_letters_is_named(corpus, tmp_path, monkeypatch):
    """With digits alone, which the model does not write, nothing is left of it."""
    texts = list(corpus.texts)
    texts[2] = "100"
    monkeypatch.setattr(SpeechFolder, "texts", tuple(texts))
    with pytest.raises(ValueError, match=f"transcript of {corpus.ids[2]}: the model has no letter of '100'; leave it"):
        make_trainer(corpus, tmp_path)


def test_no_training_without_an_epoch():
    with pytest.raises(ValueError, match="epochs must be above 0"):
        TrainingSettings(epochs=0)
    with pytest.raises(ValueError, match="accumulate must be at least 1"):
        TrainingSettings(accumulate=0)
    with pytest.raises(ValueError, match="first_epoch must be at least 0"):
        TrainingSettings(first_epoch=-1)


def test_two_processes_share_every_epochs_batches(corpus, tmp_path, monkeypatch):
    trainer = make_trainer(corpus, tmp_path, batch_seconds=2.5)
    alone = trainer._batches(0)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(training, "_rank_and_world", lambda rank=rank: (rank, 2))
        parts.append(trainer._batches(0))
    assert len(parts[0]) == len(parts[1]) == len(alone) // 2
    batches = [batch for part in parts for step in part._steps for batch in step]
    utterances = [index for batch in batches for index in batch]
    assert len(utterances) == len(set(utterances))
    longest = max(corpus.num_samples)
    assert all(len(batch) * longest <= 2.5 * 16_000 for batch in batches)
    # One process that accumulates two batches takes the steps of two processes.
    monkeypatch.setattr(training, "_rank_and_world", lambda: (0, 1))
    accumulated = make_trainer(corpus, tmp_path / "accumulated", batch_seconds=2.5, accumulate=2)._batches(0)
    assert accumulated._steps == [[*one, *other] for one, other in zip(*(part._steps for part in parts), strict=True)]
    assert accumulated.seen == parts[0].seen


def test_too_few_utterances_for_a_step(corpus, tmp_path):
    with pytest.raises(ValueError, match=r"9 utterances make 1 batches, fewer than the 2 that .* below 50"):
        make_trainer(corpus, tmp_path, batch_seconds=50, accumulate=2)


def test_accumulated_gradients_are_the_mean_of_their_batches(corpus, tmp_path):
    trainer = make_trainer(corpus, tmp_path, batch_seconds=2.5, accumulate=3, bfloat16=False, clip=1e9)
    trainer.model.eval()
    batches = trainer._batches(0)[0]
    assert len(batches) == 3
    parameters = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    torch.manual_seed(0)
    each = [
        torch.autograd.grad(trainer.loss_module(*trainer._training_batch(batch))["loss"], parameters)
        for batch in batches
    ]
    torch.manual_seed(0)
    trainer._train_step(batches)
    for parameter, *gradients in zip(parameters, *each, strict=True):
        torch.testing.assert_close(parameter.grad, sum(gradients) / 3, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not LIBRISPEECH.is_dir(), reason=f"the LibriSpeech sample is not in {LIBRISPEECH}")
def test_a_step_on_real_librispeech(tmp_path):
    speech = SpeechFolder(LIBRISPEECH, "test-other", limit=4)
    trainer = make_trainer(speech, tmp_path, Augmentation(), make_learner(speech, 30), epochs=1, batch_seconds=30.0)
    weights = trainer.model.decoder.output.weight.detach().clone()
    trainer.run()
    assert not torch.equal(weights, trainer.model.decoder.output.weight)
