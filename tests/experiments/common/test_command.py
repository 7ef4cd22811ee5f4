"""Every command: its help explains every option, and whatever is wrong ends it with one line."""

import ast
import importlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from experiments.common.agent import make_agent
from experiments.common.command import command, given_command
from experiments.common.command_help import Command, Option, read_comments
from experiments.common.compose import CONF
from experiments.common.options import check_options, with_new_keys
from tests.experiments.bad_commands import BAD_COMMANDS
from tests.helpers.processes import python

ROOT = CONF.parent
CONFIGS = {path.stem: (CONF, path.stem) for path in CONF.glob("*.yaml")} | {"compress": (CONF / "compress", "compress")}
assert make_agent  # Its module registers the resolver that the configs of agents need.


DISCRETE = [f"agent={name}" for name in ("controller", "dqn", "maskable_ppo")]
"""Agents that choose their actions, which a command for rules does not have."""


def kinds_of(name):
    (path,) = (path for path in (ROOT / "experiments").glob(f"**/{name}.py") if "common" not in path.parts)
    return importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts)).main.kinds


def described(name):
    return Command(*CONFIGS[name], f"experiments.{name}", "It does something.")


def choices_together(name):
    """Overrides that take every choice of every group once: to compose takes a while, so one of each group at once."""
    this = described(name)
    taken = {
        group: [f"{group}={choice}" for choice in this.choices_of(group)]
        for group in this.compose([])[1]
        if group != "launcher"  # Its options are those of Hydra's plugins.
    }
    if name in ("seed_model", "iterate"):
        taken["agent"] = [choice for choice in taken["agent"] if choice not in DISCRETE]
    # They change other groups.
    recipes = [[choice] for group in ("recipe", "environment") for choice in taken.pop(group, ())]
    together = [[choice for choice in row if choice] for row in itertools.zip_longest(*taken.values())]
    return [[], *recipes, *together]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_option_is_explained_in_a_line_and_checked(name):
    """And what is written in the configs is right."""
    this, kinds = described(name), kinds_of(name)
    trains = name in ("finetune", "iterate", "retraining", "train_asr")
    for overrides in choices_together(name):
        config, choices = this.compose(overrides)
        options = this.options(config, choices)
        assert options
        assert [option.name for option in options if not option.explanation] == [], overrides
        explanations = this.explanations(choices)
        assert [group for group in choices if not explanations.get(f"defaults.{group}")] == []
        for option in options:
            assert len(option.explanation) <= 115, option
            assert option.explanation[0].isupper(), option
        # What stays to be given, and what only trainings take.
        whole = [each for each in overrides if not each.endswith("=custom") and (trains or each != "data=focus")]
        if choices.get("data") == "librispeech":
            whole += ["data.root=x", "data.subset=y"]
        if "search_space=explicit" in whole:
            whole += ["search_space.candidates={encoder.0: [2, 3]}"]
        check_options(config if whole == overrides else this.compose(whole)[0], kinds)


def test_every_command_is_decorated():
    """And its config is the one that has its name."""
    found = {}
    for path in sorted((ROOT / "experiments").glob("**/*.py")):
        for node in ast.parse(path.read_text()).body:
            for decorator in getattr(node, "decorator_list", ()):
                if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "command":
                    found[path.stem] = decorator.args[0].value
    assert all(name == config for name, config in found.items())
    assert set(found) == set(CONFIGS)


def test_the_help_of_the_search():
    text = described("search").help(["reward=threshold", "budget=7"])
    lines = text.splitlines()
    assert lines[0] == "It does something."
    (budget,) = (line.split() for line in lines if line.startswith("  budget="))
    assert budget == ["budget=7", "Unique", "evaluations", "on", "the", "proxy", "set"]
    assert "  reward.punishment=1.0" in text
    assert "size_weight" not in text
    (head,) = (line for line in lines if line.startswith("options of reward="))
    assert head == "options of reward=threshold (1 - s if e <= e0 + tolerance, else -punishment):"
    listed = lines[lines.index(next(line for line in lines if line.startswith("  action=continuous"))) + 1]
    assert listed.split() == ["continuous,", "custom,", "delta,", "discrete,", "energy,", "level,", "one_shot"]
    assert "size (required)" in described("seed_model").help([])


def test_comments_stand_behind_or_above():
    text = """# @package _global_
# Of the file.

one: 1 # Behind
# Above
two: {a: 1} # Behind wins
# Above alone
three:
  # Inside
  four: "#x"

  five: 5
- group: choice # Choice
"""
    assert read_comments(text) == {
        "one": "Behind",
        "two": "Behind wins",
        "three": "Above alone",
        "three.four": "Inside",
        "group": "Choice",
    }


@pytest.mark.parametrize(
    ("value", "typed"),
    [
        ("???", "x (required)"),
        (None, "x=null"),
        (True, "x=true"),
        ("", 'x=""'),
        ([1, "a"], "x=[1, a]"),
        ({"_target_": "a.B", "c": 1}, "x=B(c=1)"),
    ],
)
def test_options_are_shown_as_they_are_typed(value, typed):
    assert Option("x", value, "").typed == typed


@pytest.fixture
def call(monkeypatch, capsys, tmp_path, tmp_path_factory):
    """Calls a command as it is typed; returns the exit status and the lines on stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHRINKML_CACHE", str(tmp_path_factory.mktemp("cache") / "evaluations.sqlite"))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def call_command(name, *arguments):
        module = importlib.import_module(f"experiments.{name}")
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(SystemExit) as ended:
            module.main()
        told = capsys.readouterr().err.splitlines()
        assert "HYDRA_FULL_ERROR" not in os.environ
        return ended.value.code, told

    return call_command


@pytest.mark.parametrize(
    ("line", "expected"), [case[1:] for case in BAD_COMMANDS], ids=[case[0] for case in BAD_COMMANDS]
)
def test_whatever_is_wrong_ends_in_one_line(call, tmp_path, line, expected):
    if line.startswith("quantise"):
        pytest.importorskip("torchao")
    status, told = call(*line.split(" "))
    assert status == 2
    assert len(told) == 1, told
    assert expected in told[0]
    assert "Traceback" not in told[0]
    assert list(tmp_path.iterdir()) == []


def test_a_job_of_a_multirun_says_which_it_is(call):
    status, told = call("seed_model", "-m", "size=0.5,2", "agent=ppo")
    assert status == 2
    assert told[0].startswith("Error executing job with overrides: ['size=0.5'")
    assert told[1].startswith("stable_baselines3.PPO is a search")
    assert len(told) == 2


@pytest.fixture
def run(monkeypatch, capsys):
    """Makes a command of a function, with the config of `experiments.summary`, and calls it; returns what it tells."""
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(sys, "argv", ["summary"])

    def run_function(function):
        main = command("summary")(function)
        assert main.__wrapped__ is function
        main()
        return capsys.readouterr()

    return run_function


def test_a_command_is_its_function_with_a_config(run):
    def show(config):
        print(OmegaConf.to_yaml(config))

    assert yaml.safe_load(run(show).out) == {"outputs": "outputs/search"}


def test_a_command_knows_how_it_was_given(run, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["summary", "outputs=my runs"])
    told = run(lambda config: print(given_command()))
    assert told.out == f"python -m {__name__} 'outputs=my runs'\n"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("two\n lines"), "two lines (HYDRA_FULL_ERROR=1 shows where)\n"),
        (FileNotFoundError("x is missing"), "x is missing\n"),
        (ImportError("pip install it"), "pip install it (HYDRA_FULL_ERROR=1 shows where)\n"),
        (TypeError("no"), "no (HYDRA_FULL_ERROR=1 shows where)\n"),
    ],
)
def test_errors_of_the_user(run, capsys, monkeypatch, error, told):
    def fail(config):
        raise error

    with pytest.raises(SystemExit) as ended:
        run(fail)
    assert ended.value.code == 2
    # This function is none of ShrinkML's, so the place may be of interest.
    assert capsys.readouterr().err == told
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["summary"])
    with pytest.raises(type(error)):
        command("summary")(fail)()


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyError("bug"), AssertionError("bug")])
def test_bugs_keep_their_traceback(run, error):
    def fail(config):
        raise error

    with pytest.raises(type(error), match="bug"):
        run(fail)


@pytest.mark.parametrize(
    "fail", [lambda config: range(config.outputs), lambda config: int(config.outputs)], ids=["TypeError", "ValueError"]
)
def test_what_python_raises_is_a_bug(run, fail):
    """Unlike what a `raise` statement raises: bad input is told before any work."""
    with pytest.raises((TypeError, ValueError), match=r"outputs/search|'str' object cannot be interpreted"):
        run(fail)


def test_mappings_take_new_keys():
    given = ["variants={mine: []}", "variants.mine=[]", "+variants.mine=[]", "~variants.default", "budget=3"]
    expected = ["++variants={mine: []}", "++variants.mine=[]", *given[2:]]
    assert with_new_keys(given, kinds_of("ablation")) == expected
    config, _ = described("ablation").compose(expected[:1])
    assert list(config.variants)[-1] == "mine"
    check_options(config, kinds_of("ablation"))


def test_stopping_takes_one_line(run, capsys):
    def stop(config):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        run(stop)
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "stopped: the same command goes on from here\n"


def test_an_exit_status_of_ones_own_is_kept(run):
    def fail(config):
        sys.exit("VALIDATION FAILED")

    with pytest.raises(SystemExit, match="VALIDATION FAILED"):
        run(fail)


@pytest.mark.slow
def test_as_it_is_typed(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "experiments.cache"]
    found = subprocess.run(
        [*command, "comand=show"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    message = "comand: there is no such option: did you mean command?; python -m experiments.cache --help lists all\n"
    assert (found.returncode, found.stderr) == (2, message)
    found = python("-m", "experiments.cache", "--help", cwd=tmp_path)
    assert found.returncode == 0
    assert found.stdout.startswith(
        "Show, prune or export the evaluation cache: `python -m experiments.cache command=show|prune|export`."
    )
    assert "usage: python -m experiments.cache [OPTION=VALUE ...]" in found.stdout
    assert list(Path(tmp_path).iterdir()) == []
