"""Files of other people are data: nothing in them is run, unpickled or imported without being asked for."""

import importlib
import json
import pickle
import shutil
import sys

import pytest
import torch

import experiments.search
from shrinkml_env import load_compressed, load_model, save_compressed
from shrinkml_env.asr import JointCTCAttention
from shrinkml_env.asr.training import CHECKPOINT, Trainer, TrainingSettings
from shrinkml_env.space import Sensitivity
from shrinkml_env.space.table import Table
from tests.helpers.huggingface_models import make_whisper
from tests.helpers.models import TinyCTC
from tests.helpers.speech import PLAIN, make_corpus, make_learner
from tests.helpers.workplace import make_workplace

pytestmark = pytest.mark.slow

RUN = {"_target_": "hostile.Hostile", "path": "x"}
"""What a config would run."""


class Bomb:
    """Unpickling it runs code."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """A file that exists once anything hostile was run; a module `hostile` whose import makes it can be found."""
    path = tmp_path / "mark"
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "hostile.py").write_text(f"open({str(path)!r}, 'w').close()\nHostile = dict\n")
    monkeypatch.syspath_prepend(tmp_path / "path")
    yield path
    sys.modules.pop("hostile", None)
    assert not path.exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of a search, and the sets and the model that it is about."""
    folder = tmp_path_factory.mktemp("finished")
    patch = pytest.MonkeyPatch()
    patch.setenv("SHRINKML_CACHE", str(folder / "cache.sqlite"))
    options = ["agent=random", "budget=2", "finalists=1", "imports=[tests.helpers.models]"]
    patch.setattr(
        sys, "argv", ["search", *make_workplace(folder, TinyCTC()), *options, f"outputs={folder / 'outputs'}"]
    )
    experiments.search.main()
    patch.undo()
    (run,) = (folder / "outputs").iterdir()
    return run


@pytest.fixture
def hostile(finished, tmp_path, mark):
    """The same run, whose record and config name code wherever they can."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    record = json.loads((run / "best.json").read_text())
    record |= {
        "factorisation": RUN,
        "agent": RUN,
        "reward": RUN,
        "imports": ["hostile"],
        "config": {"imports": ["hostile"]},
    }
    (run / "best.json").write_text(json.dumps(record))
    for name in ("config.yaml", "search.yaml"):
        (run / name).write_text(
            "imports: [hostile]\nagent: {_target_: hostile.Hostile}\nmodel: {_target_: hostile.Hostile}\n"
        )
    (run / "agent").write_bytes(pickle.dumps(Bomb(mark)))
    return run


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Calls a command; returns its exit status and what it told."""

    def call_command(name, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        status = 0
        try:
            importlib.import_module(f"experiments.{name}").main()
        except SystemExit as ended:
            status = ended.code
        return status, capsys.readouterr().err.splitlines()

    return call_command


def test_validate_does_not_run_what_a_ranks_file_names(hostile, call):
    status, told = call("validate", f"ranks={hostile / 'best.json'}")
    assert status == 2
    assert told[-1].startswith(f"{hostile / 'best.json'} names hostile.Hostile as its factorisation")
    assert told[-1].endswith("give trust=true if you trust whoever wrote it")


def test_validate_runs_it_where_it_is_trusted(hostile, call, mark):
    status, _ = call("validate", f"ranks={hostile / 'best.json'}", "trust=true", "imports=[tests.helpers.models]")
    assert status == 2  # A dict is no factorisation.
    assert mark.exists()
    mark.unlink()


def test_validate_of_a_run_reads_its_models_alone(hostile, call):
    assert call("validate", f"run={hostile}")[0] == 0


def test_summary_shows_it(hostile, call):
    assert call("summary", f"outputs={hostile.parent}")[0] == 0


@pytest.mark.parametrize("place", ["factorisation", "settings", "utterances"])
def test_the_leaderboard_refuses_code(hostile, call, tmp_path, place):
    record = json.loads((hostile / "best.json").read_text())
    record |= {
        "model": "las_small",
        "utterances": {name: name for name in ("proxy", "dev", "test")},
        "factorisation": "svd",
    }
    record = record | {place: record[place] | {"of": RUN} if isinstance(record[place], dict) else RUN}
    (hostile / "best.json").write_text(json.dumps(record))
    status, told = call("leaderboard", f"add=[{hostile}]", f"submissions={tmp_path / 's'}", f"page={tmp_path / 'p.md'}")
    if place == "settings":
        assert (status, len(told)) == (2, 1)
        assert "settings must be an object of texts" in told[0]
    else:
        assert status == "REFUSED run: a submission is data, and this one names code: hostile.Hostile"
    assert not (tmp_path / "s").exists()
    assert not (tmp_path / "p.md").exists()


def test_the_page_shows_a_title_as_it_is(hostile):
    from experiments.leaderboard import page

    record = json.loads((hostile / "best.json").read_text())
    record["title"] = "<script>x</script> | [a](http://b)\n# `c`-linear-0"
    record["settings"]["reward"] = "linear |"
    (hostile / "one.json").write_text(json.dumps(record))
    (row,) = (line for line in page([hostile / "one.json"]).splitlines() if "one.json" in line)
    assert row.count("|") == 11
    assert "<" not in row
    assert "[a]" not in row


@pytest.mark.parametrize("folder", ["", "compressed"])
def test_export_reads_the_model_alone(hostile, call, folder):
    sets = f"set={{root: {hostile.parent / 'speech'}, subset: dev}}"
    workplace = hostile.parent / "speech"
    workplace.mkdir()
    make_workplace(workplace, TinyCTC())
    assert call("export", f"run={hostile / folder}", "format=safetensors", sets)[0] == 0


@pytest.mark.parametrize(
    ("command", "status", "arguments"),
    [
        ("compress", 2, ["target_size=0.5", "model={}"]),  # Other models than the embedded one need speech.
        ("quantise", 0, ["model={}", "dev={{root: {}/../speech, subset: dev}}", "test=${{dev}}"]),
        ("finetune", 2, ["seed_model={}"]),  # Only LAS models are trained.
        ("sensitivity", 2, ["model={}"]),
    ],
)
def test_the_other_commands_do_not_follow_a_runs_config(hostile, call, command, status, arguments):
    (hostile.parent / "speech").mkdir()
    make_workplace(hostile.parent / "speech", TinyCTC())
    found, told = call(command, *(argument.format(hostile) for argument in arguments))
    assert found == status, told
    assert not any("hostile" in line for line in told)


def pickled(path, mark, *_):
    path.write_bytes(pickle.dumps({"weight": Bomb(mark)}))


def torch_pickled(path, mark, *_):
    torch.save({"weight": Bomb(mark)}, path)


@pytest.mark.parametrize("write", [pickled, torch_pickled])
def test_a_pickle_named_as_weights_is_refused(tmp_path, mark, write):
    save_compressed(TinyCTC(), tmp_path / "model")
    write(tmp_path / "model" / "model.safetensors", mark)
    with pytest.raises(ValueError, match=r"model\.safetensors: not a complete safetensors file"):
        load_compressed(tmp_path / "model")


@pytest.mark.parametrize("write", [pickled, torch_pickled])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_pickles_in_a_folder_of_hugging_faces_are_refused(tmp_path, mark, write, name):
    pytest.importorskip("transformers")
    make_whisper(tmp_path / "path")
    (tmp_path / "path" / "model.safetensors").unlink()
    write(tmp_path / "path" / name, mark)
    with pytest.raises(ValueError, match=str(tmp_path)):
        load_model(f"hf:{tmp_path / 'path'}")


def test_code_in_a_folder_of_hugging_faces_is_not_run(tmp_path, mark):
    pytest.importorskip("transformers")
    folder = tmp_path / "path"  # With `hostile.py` in it.
    make_whisper(folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForSpeechSeq2Seq"), "hostile.Hostile")
    (folder / "config.json").write_text(json.dumps(config))
    load_model(f"hf:{folder}")
    config["model_type"] = "mine"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="no adapter for models of type 'mine'"):
        load_model(f"hf:{folder}")


@pytest.mark.parametrize("write", [pickled, torch_pickled])
def test_tables_sensitivities_and_checkpoints_are_not_unpickled(tmp_path, mark, write):
    path = tmp_path / "file"
    write(path, mark)
    for read in (Table.load, Sensitivity.load):
        with pytest.raises(ValueError, match=rf"{path} is not a"):
            read(path)
    corpus = make_corpus(tmp_path)
    (tmp_path / "run").mkdir()
    write(tmp_path / "run" / CHECKPOINT, mark)
    settings = TrainingSettings(epochs=1, batch_seconds=2.0)
    with pytest.raises(ValueError, match=r"checkpoint\.pt: not a whole checkpoint of a training"):
        Trainer(make_learner(corpus), corpus, corpus[:1], PLAIN, JointCTCAttention(), settings, tmp_path / "run")


@pytest.mark.parametrize("agent", ["RandomSearch", "Controller"])
def test_agents_are_not_unpickled(tmp_path, mark, agent):
    import agents

    pickled(tmp_path / "agent", mark)
    with pytest.raises(ValueError, match=f"agent was not saved by {agent}"):
        getattr(agents, agent).load(tmp_path / "agent")
