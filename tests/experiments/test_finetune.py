"""Fine-tuning, seed models and iteration on a tiny LAS model that half hears three tones."""

import itertools
import json
import shutil

import pytest
import torch
from hydra import compose, initialize

from experiments import compress as compress_command
from experiments.common.finetuning import finetune
from experiments.common.stepwise import iterate
from experiments.seed_model import make
from experiments.summary import table, trained_table
from experiments.validate import validate, validate_ranks
from shrinkml_env import compress, count_parameters, encoder_parameters, load_model, save_compressed
from shrinkml_env.asr import Augmentation, JointCTCAttention
from shrinkml_env.asr.training import CHECKPOINT, Trainer, TrainingSettings, read_checkpoint
from shrinkml_env.compression import SVD, arranged_layers, ranks_of, round_to_storage
from shrinkml_env.compression.discovery import factors_of
from tests.helpers.models import TinyCTC
from tests.helpers.processes import python
from tests.helpers.speech import PLAIN

RANKS = {"encoder.0": 5, "encoder.1": 6, "decoder.lstm": 4}


@pytest.fixture
def seed_model(original, tmp_path):
    save_compressed(compress(load_model(original), RANKS), tmp_path / "small")
    return tmp_path / "small"


@pytest.mark.slow
def test_a_jointly_factored_model(configure_training, original, tmp_path):
    ranks = {"encoder.0": 6, "encoder.1.recurrent": 5, "decoder.lstm": 4}
    seed_model = compress(load_model(f"joint:{original}"), ranks)
    save_compressed(seed_model, tmp_path / "small")
    directory = finetune(configure_training("finetune", f"seed_model={tmp_path / 'small'}", "distillation=original"))
    model = load_model(directory / "model")
    assert ranks_of(model) == ranks_of(seed_model)
    for before, after in zip(seed_model.encoder.layers, model.encoder.layers, strict=True):
        assert not torch.equal(before.weight_forward_u, after.weight_forward_u)
        assert not torch.equal(before.weight_forward_v, after.weight_forward_v)


@pytest.mark.slow
@pytest.mark.parametrize("distillation", ["none", "original"])
def test_leaves_a_better_model_of_the_same_ranks(configure_training, seed_model, original, distillation, capsys):
    options = (f"distillation={distillation}", "training.epochs=40.4", "training.batch_seconds=20")
    config = configure_training("finetune", f"seed_model={seed_model}", "training.learning_rate=1e-2", *options)
    directory = finetune(config)
    result = json.loads((directory / "result.json").read_text())
    model = load_model(directory / "model")
    assert result["ranks"] == ranks_of(model) == ranks_of(load_model(seed_model))
    assert result["params"] == {"original": count_parameters(load_model(original)), "model": count_parameters(model)}
    assert result["size_ratio"] == result["params"]["model"] / result["params"]["original"] < 1
    assert result["file_bytes"] == (directory / "model" / "model.safetensors").stat().st_size
    assert result["training"].items() >= {"epochs": 40.4, "utterances": 40 * 9, "steps": 40, "processes": 1}.items()
    assert result["training"]["seconds"] > 0
    assert result["training"]["cpu_seconds"] > 0
    assert result["config"]["seed_model"] == str(seed_model)
    for when, name in ("before", "dev"), ("after", "dev"), ("after", "test"):
        measured = result[when][name]
        assert measured["wer"] == sum(measured["edits"]) / sum(measured["words"])
        assert measured["words"] == [2] * 9
    assert result["after"]["dev"]["wer"] < result["before"]["dev"]["wer"]
    for name in ("config.yaml", "seed.json", "checkpoint.pt", "tensorboard"):
        assert (directory / name).exists(), name
    assert f"{100 * result['after']['test']['wer']:.2f} %" in capsys.readouterr().out
    assert finetune(config) == directory
    assert "has ended already" in capsys.readouterr().out


@pytest.mark.slow
def test_the_pivoting_form_is_trained_as_two_factors(configure_training, original, tmp_path):
    dense = load_model(original)
    seed = compress(dense, {**RANKS, "encoder.0": 21}, SVD(dense, form="pivoting"))  # above the break-even of W_hh
    round_to_storage(seed)
    save_compressed(seed, tmp_path / "small")
    directory = finetune(configure_training("finetune", f"seed_model={tmp_path / 'small'}"))
    model = load_model(directory / "model")
    assert {matrix.form for layer in arranged_layers(model) for matrix in layer.matrices} == {"pivoting"}
    assert ranks_of(model) == ranks_of(seed)
    result = json.loads((directory / "result.json").read_text())
    assert result["params"]["model"] == count_parameters(model) == count_parameters(seed)
    trained = read_checkpoint(directory / CHECKPOINT)["model"]
    products = factors_of(model)
    for name, factors in factors_of(seed).items():
        u, v = trained[f"{name}_u"], trained[f"{name}_v"]
        assert v.shape[1] == factors.shape[1]
        torch.testing.assert_close(products[name].product.detach(), u @ v, rtol=0, atol=2e-3)  # float16
        assert not torch.allclose(factors.product, u @ v, rtol=0, atol=2e-3)


@pytest.mark.slow
def test_dropout_is_that_of_the_config(configure_training, seed_model):
    def trained(*options):
        return load_model(finetune(configure_training("finetune", f"seed_model={seed_model}", *options)) / "model")

    without, still, with_dropout = trained(), trained("dropout=0"), trained("dropout=0.5")
    assert load_model(seed_model).config.dropout > 0
    weights = [model.decoder.output.weight for model in (without, still, with_dropout)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.fixture(scope="module")
def hearing(tones, original):
    """The folder of a model that has learned more."""
    model, folder = load_model(original), tones.folder.parent / "longer"
    settings = TrainingSettings(epochs=60, batch_seconds=20.0, learning_rate=5e-3)
    Trainer(model, tones, tones[:1], PLAIN, JointCTCAttention(ctc_weight=0.0), settings, folder / "training").run()
    round_to_storage(model.eval())
    save_compressed(model, folder / "model")
    return folder / "model"


@pytest.mark.slow
@pytest.mark.parametrize("rate", ["5e-3", "1e-9"])
def test_the_engineers_command_trains_what_it_has_found(tones, hearing, tmp_path, rate, capsys, monkeypatch):
    def stop(config):
        raise KeyboardInterrupt

    for speaker in "34567":
        chapter = shutil.copytree(tones.folder / "1" / "2", tmp_path / "data" / speaker / "2")
        for path in chapter.glob("1-*"):
            path.rename(path.with_name(f"{speaker}{path.name[1:]}"))
        lines = (chapter / f"{speaker}-2.trans.txt").read_text().replace("1-2-", f"{speaker}-2-")
        (chapter / f"{speaker}-2.trans.txt").write_text(lines)
    data, other = tmp_path / "data", tones.folder
    settings = ["training.epochs=20", "training.batch_seconds=20", f"training.learning_rate={rate}"]
    goal = [f"model={hearing}", f"data={data}", "target_size=0.2", "budget=8", f"outputs={tmp_path / 'out'}"]
    # Factors that lose so much that training is worth it.
    goal.append('overrides=["factorisation=svd","granularity=layer","agent.imagined=50"]')
    with initialize(version_base="1.3", config_path="../../conf/compress"):
        config = compose("compress", [*goal, f"finetune={other}", f"finetune_overrides={settings}".replace("'", '"')])
        bad = compose("compress", [*goal, f"finetune={data}"])
    directory = compress_command.compress(config, compress_command.prepare(config))
    told = capsys.readouterr().out
    record = json.loads((directory / "best.json").read_text())
    truncated, final = (load_model(directory / name) for name in ("search/compressed", "compressed"))
    assert ranks_of(final) == ranks_of(truncated)
    assert record["encoder_params"]["compressed"] == encoder_parameters(final)
    assert f"{encoder_parameters(final):,}" in told
    assert "No speaker of test is in the speech that is trained on." in told
    assert validate(directory) == []
    trained = not torch.equal(truncated.decoder.output.weight, final.decoder.output.weight)
    if rate == "5e-3":
        assert trained
        test = record["sets"]["test"]
        assert record["wer_increase"]["value"] == pytest.approx(test["wer_after"] - test["wer_before"])
        assert f"after 20 epochs on {other}" in told
        assert len(table(directory.parent)) == 2
    else:
        assert not trained
        assert "The model is unchanged." in told
        assert record["rewards"]
    # Until the training has ended nothing says that the run has.
    (directory / "best.json").unlink()
    with monkeypatch.context() as killed:
        killed.setattr(compress_command, "finetune", stop)
        with pytest.raises(KeyboardInterrupt):
            compress_command.compress(config, compress_command.prepare(config))
    assert not (directory / "best.json").exists()
    assert compress_command.compress(config, compress_command.prepare(config)) == directory
    assert json.loads((directory / "best.json").read_text()) == record
    with pytest.raises(ValueError, match="what is measured must not be trained on"):
        compress_command.prepare(bad)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_model(configure_training, seed_model, tmp_path, monkeypatch):
    options = (f"seed_model={seed_model}", "distillation=original", "+training.checkpoint_steps=1")
    whole = finetune(configure_training("finetune", *options, f"outputs={tmp_path / 'whole'}"))
    hear, calls = Augmentation.__call__, itertools.count()

    def killed(self, waveform, generator):
        if next(calls) == 12:
            raise KeyboardInterrupt
        return hear(self, waveform, generator)

    config = configure_training("finetune", *options)
    monkeypatch.setattr(Augmentation, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        finetune(config)
    monkeypatch.setattr(Augmentation, "__call__", hear)
    resumed = finetune(config)
    assert (whole / "model" / "model.safetensors").read_bytes() == (resumed / "model/model.safetensors").read_bytes()
    results = [json.loads((directory / "result.json").read_text()) for directory in (whole, resumed)]
    for result in results:
        assert result["training"].pop("seconds") > 0
        assert result["training"].pop("cpu_seconds") > 0
        del result["config"]["outputs"]
    assert results[0] == results[1]


def test_a_dense_model_trains_on(configure_training, original):
    directory = finetune(configure_training("finetune", f"seed_model={original}", "training.epochs=1"))
    result = json.loads((directory / "result.json").read_text())
    assert (result["size_ratio"], result["ranks"]) == (1.0, {})
    before, after = load_model(original), load_model(directory / "model")
    assert not torch.equal(before.decoder.output.weight, after.decoder.output.weight)


def test_another_seed_model_of_the_same_name_is_refused(configure_training, seed_model, original):
    config = configure_training("finetune", f"seed_model={seed_model}", "training.epochs=1")
    directory = finetune(config)
    (directory / "result.json").unlink()
    save_compressed(compress(load_model(original), {"encoder.0": 3}), seed_model)
    with pytest.raises(ValueError, match="begun with another seed model"):
        finetune(config)
    (directory / "seed.json").write_text("{}")
    with pytest.raises(ValueError, match=r"seed\.json: the run was begun with another seed model"):
        finetune(config)


def test_the_training_set_is_a_folder(configure_training, original):
    config = configure_training("finetune", f"seed_model={original}", "data.train=dev")
    with pytest.raises(ValueError, match=r"data\.train must be \{root: DIR, subset: NAME\}.*got 'dev'"):
        finetune(config)


def test_only_las_models_are_trained(tmp_path, configure_training):
    save_compressed(TinyCTC(), tmp_path / "other")
    with pytest.raises(ValueError, match="holds a TinyCTC: only LAS"):
        finetune(configure_training("finetune", f"seed_model={tmp_path / 'other'}"))


@pytest.mark.parametrize("agent", ["uniform", "energy", "profile", "knapsack"])
def test_every_rule_makes_a_seed_model_of_the_size(configure_training, agent):
    directory = make(configure_training("seed_model", f"agent={agent}", "size=0.5"), "title")
    record = json.loads((directory / "best.json").read_text())
    model = load_model(directory / "compressed")
    # The knapsack leaves out what loses nothing on these few words.
    assert (0.2 if agent == "knapsack" else 0.45) < record["size_ratio"] <= 0.5
    assert record["params"]["compressed"] == count_parameters(model)
    assert validate(directory) == []
    assert validate_ranks(directory / "best.json") == []


def test_a_search_is_no_rule_and_has_its_own_command(configure_training):
    with pytest.raises(ValueError, match=r"agents\.RandomSearch is a search.*constraint\.budget=SIZE"):
        make(configure_training("seed_model", "agent=random", "size=0.5"), "title")
    with pytest.raises(ValueError, match="smallest model on this curve"):
        make(configure_training("seed_model", "agent=uniform", "size=0.01"), "title")


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [[], ["search=['agent=random','budget=4','finalists=1']"]], ids=["rule", "search"])
def test_iterates_down_to_the_last_size(configure_training, original, ranks):
    config = configure_training("iterate", "sizes=[0.7,0.4]", "shares=[1,3]", "agent=uniform", *ranks)
    directory = iterate(config)
    result = json.loads((directory / "result.json").read_text())
    first, last = result["stages"]
    assert first["size_ratio"] <= 0.7
    assert last["size_ratio"] <= 0.4
    assert [stage["training"]["epochs"] for stage in (first, last)] == [0.5, 1.5]
    assert result["training"]["utterances"] == sum(stage["training"]["utterances"] for stage in result["stages"])
    assert result["training"]["epochs"] == 2
    assert result["size_ratio"] == count_parameters(load_model(directory / "model")) / count_parameters(
        load_model(original)
    )
    assert result["after"] == last["after"]
    # What it hears begins where the first stage stopped hearing.
    config_of_last = json.loads(next(directory.glob("stage-2/*-plain-*/result.json")).read_text())["config"]
    assert config_of_last["training"]["first_epoch"] == 0.5
    # The second stage begins where the first one ended: its seed is cut from what that one trained.
    model = load_model(next(directory.glob("stage-1/*-plain-*/model")))
    seed = load_model(directory / "stage-2" / "seed")
    assert torch.equal(model.decoder.lstm.bias_ih, seed.decoder.lstm.bias_ih)
    assert not torch.equal(model.decoder.lstm.bias_ih, load_model(original).decoder.lstm.bias_ih)
    before = (directory / "result.json").read_bytes()
    (directory / "result.json").unlink()
    assert iterate(config) == directory
    assert (directory / "result.json").read_bytes() == before


def test_summary_of_a_rule(configure_training, tmp_path):
    make(configure_training("seed_model", "agent=uniform", "size=0.6"), "uniform-0.6")
    original, rule = table(tmp_path / "seed_model").itertuples(index=False, name=None)
    assert original[0] == "original"
    # Found by the rule: no evaluations, no reward; three WERs all the same.
    assert rule[1:4] == ("uniform-0.6", "", "")
    assert float(rule[4]) <= 0.6
    assert all(float(wer) >= 0 for wer in rule[5:])


def test_bad_stages(configure_training):
    with pytest.raises(ValueError, match="sizes must fall"):
        iterate(configure_training("iterate", "sizes=[0.4,0.7]"))
    with pytest.raises(ValueError, match="shares must be 2 numbers"):
        iterate(configure_training("iterate", "sizes=[0.7,0.4]", "shares=[1]"))


@pytest.mark.slow
def test_from_the_command_line_in_two_processes(tones, original, seed_model, tmp_path):
    speech = f"{{root: {tones.folder.parent}, subset: train}}"
    # As users type it; other tests start such processes by `training`.
    command = [
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *("-m", "experiments.finetune", f"seed_model={seed_model}", f"original={original}", "distillation=original"),
        *("data=synthetic", *(f"data.{name}={speech}" for name in ("train", "dev", "test"))),
        *("training.batch_seconds=2.0", "training.epochs=1", f"outputs={tmp_path / 'runs'}"),
    ]
    output = python(*command)
    assert output.returncode == 0, output.stderr
    (path,) = (tmp_path / "runs").glob("small-distilled-0-*/result.json")
    result = json.loads(path.read_text())
    assert result["training"]["processes"] == 2
    assert 0 < result["training"]["utterances"] <= 9
    assert str(path.parent) in output.stdout
    (row,) = trained_table(tmp_path / "runs").to_dict("records")
    assert row["run"] == path.parent.name
    assert row["test WER % after"] == f"{100 * result['after']['test']['wer']:.2f}"
