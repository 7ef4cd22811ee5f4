import pytest
import torch

from shrinkml_env import load_model
from shrinkml_env.asr.training import CHECKPOINT
from tests.helpers.processes import python, training
from tests.helpers.speech import LIBRISPEECH

TINY = (
    "architecture.name=tones",
    "architecture.vocabulary_size=14",
    "architecture.sizes.encoder_units=8",
    "architecture.sizes.time_reduction=[3,2]",
    "architecture.sizes.decoder_units=8",
    "architecture.sizes.readout_units=8",
    "training.epochs=4",
    "training.batch_seconds=2.5",
)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_trains_and_saves_a_model_that_loads(corpus, tmp_path, processes):
    root = corpus.folder.parent
    command = [
        *("-m", "experiments.train_asr", *TINY, f"outputs={tmp_path / 'runs'}"),
        *("data=librispeech", f"data.root={root}", "data.subset=train", "data.dev.subset=train", "data.dev.limit=2"),
    ]
    first, *others = [python(*command)] if processes == 1 else training(*command, processes=processes)
    assert first.returncode == 0, first.stderr
    assert [(other.returncode, other.stdout) for other in others] == [(0, "")] * (processes - 1)
    (model,) = (tmp_path / "runs").glob("tones-0-*/model")
    assert str(model) in first.stdout
    assert len(load_model(model).transcribe([corpus[0].waveform])) == 1


@pytest.mark.slow
@pytest.mark.skipif(not LIBRISPEECH.is_dir(), reason=f"the LibriSpeech sample is not in {LIBRISPEECH}")
def test_the_recipe_on_real_librispeech_in_two_processes(tmp_path):
    # The recipe with a tiny model: three steps for each process.
    command = [
        *("-m", "experiments.train_asr", "recipe=librispeech_960", f"data.root={LIBRISPEECH.parent}"),
        *("data.subset=[test-other]", "+data.train.limit=8", "data.dev.subset=test-other", "data.dev.limit=2"),
        *(
            *TINY,
            "architecture.vocabulary_size=60",
            "training.epochs=1",
            "training.batch_seconds=16",
            "training.workers=1",
        ),
        f"outputs={tmp_path / 'runs'}",
    ]
    first, second = training(*command)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "8 utterances" in first.stdout
    assert second.stdout == ""  # One training, of which the first process tells.
    (run,) = (tmp_path / "runs").iterdir()
    state = torch.load(run / CHECKPOINT, weights_only=True)
    assert (state["epoch"], state["step"]) == (1, 0)
    assert len(load_model(run / "model").transcribe([torch.zeros(16_000)])) == 1
    # Started again it finds its checkpoint, and nothing is left to do.
    for process in training(*command):
        assert process.returncode == 0, process.stderr
        assert "epoch 1" not in process.stderr
    assert torch.load(run / CHECKPOINT, weights_only=True)["step"] == 0


def train(corpus, outputs, *options):
    command = [
        *("-m", "experiments.train_asr", *TINY, f"outputs={outputs}", *options),
        *("data=librispeech", f"data.root={corpus.folder.parent}", "data.subset=train"),
        *("data.dev.subset=train", "data.dev.limit=2"),
    ]
    return python(*command)


@pytest.mark.slow
def test_starts_from_a_saved_model(corpus, tmp_path):
    first = train(corpus, tmp_path / "first")
    assert first.returncode == 0, first.stderr
    (start,) = (tmp_path / "first").glob("*/model")
    # So small a rate changes no weight by half a step of the file's format.
    options = ("training.learning_rate=1e-12", "architecture.sizes.dropout=0.5")
    unchanged = train(corpus, tmp_path / "second", f"start_from={start}", *options)
    assert unchanged.returncode == 0, unchanged.stderr
    (result,) = (tmp_path / "second").glob("*/model")
    before, after = load_model(start), load_model(result)
    assert after.config.dropout == 0.5
    assert after.tokenizer.to_text() == before.tokenizer.to_text()
    for name, parameter in before.named_parameters():
        assert name.startswith("ctc.") or parameter.equal(after.get_parameter(name)), name

    other = train(corpus, tmp_path / "third", f"start_from={start}", "architecture.sizes.encoder_units=6")
    assert other.returncode != 0
    assert f"start_from={start}: its sizes" in other.stderr

    going_on = train(corpus, tmp_path / "fourth", f"start_from={start.parent}", *options)
    assert going_on.returncode == 0, going_on.stderr
    (run,) = (tmp_path / "fourth").glob("*")
    heads = [
        torch.load(folder / CHECKPOINT, weights_only=True)["model"]["ctc.weight"] for folder in (start.parent, run)
    ]
    assert torch.allclose(*heads, atol=1e-6)  # only a run's own folder has it
