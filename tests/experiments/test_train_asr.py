import os
import subprocess
import sys

import pytest

from shrinkml_env import load_model

TINY = (
    "model.name=tones",
    "model.vocabulary_size=14",
    "model.sizes.encoder_units=8",
    "model.sizes.time_reduction=[3,2]",
    "model.sizes.decoder_units=8",
    "model.sizes.readout_units=8",
    "training.epochs=4",
    "training.batch_seconds=2.5",
)


@pytest.mark.parametrize(
    "launcher", [("-m",), ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")]
)
def test_trains_and_saves_a_model_that_loads(corpus, tmp_path, launcher):
    root = corpus.folder.parent
    command = [
        *(sys.executable, *launcher, "experiments.train_asr", *TINY, f"outputs={tmp_path / 'runs'}"),
        *("data=librispeech", f"data.root={root}", "data.subset=train", "data.dev.subset=train", "data.dev.limit=2"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert output.returncode == 0, output.stderr
    (model,) = (tmp_path / "runs").glob("tones-0-*/model")
    assert str(model) in output.stdout
    assert len(load_model(model).transcribe([corpus[0].waveform])) == 1
