"""The pages of the agents say what the configs do."""

import re
import shlex
from contextlib import suppress

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException

from experiments.common.agent import make_agent
from shrinkml_env.evaluation.ledger import BudgetExhausted, Ledger
from tests.helpers.configs import AGENTS, CONF
from tests.helpers.levels import make_levelled_env
from tests.helpers.predicted import do_without_a_model

pytestmark = pytest.mark.docs

DOCS = CONF.parent / "docs"
ACTIONS = ("continuous", "level", "energy", "delta", "discrete", "one_shot")


def cells(text):
    """The rows of a text's tables, without their heads."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows if row[0].strip() not in ("---", "agent", "option")]


OVERVIEW = {
    name: row
    for row in cells((DOCS / "agents.md").read_text())
    for name in re.findall(r"^\[`(\w+)`\]", row[0])
    if name != "custom"
}
SECTIONS = {
    name: (page, text)
    for page in (DOCS / "agents").glob("*.md")
    for name, text in re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
}


def options(config, path=""):
    """Dotted name -> value of what a config sets, without classes and the seed that all share."""
    found = {}
    for key, value in config.items():
        if key == "_target_" or value == "${seed}":
            continue
        nested = isinstance(value, dict) and "_target_" in value
        found |= options(value, f"{path}{key}.") if nested else {f"{path}{key}": value}
    return found


def test_every_agent_has_its_row_and_its_section():
    assert sorted(OVERVIEW) == sorted(SECTIONS) == AGENTS
    for name, row in OVERVIEW.items():
        assert f"(agents/{SECTIONS[name][0].name}#{name})" in row[0]


@pytest.mark.parametrize("name", AGENTS)
def test_a_section_has_the_defaults_the_command_and_the_source(name):
    config = yaml.safe_load((CONF / "agent" / f"{name}.yaml").read_text())
    _, text = SECTIONS[name]
    written = {row[0].strip("`"): yaml.safe_load(row[1].strip("`")) for row in cells(text)}
    assert written == options(config.get("agent", config))
    assert re.search(rf"^python -m experiments\.search agent={name}\b", text, re.MULTILINE)
    assert "](https://" in text
    assert "Look out" in text


@pytest.mark.parametrize("name", AGENTS)
def test_the_overview_knows_which_actions_an_agent_takes(name, monkeypatch):
    do_without_a_model(monkeypatch)
    taken = []
    for action in ACTIONS:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("search", overrides=[f"agent={name}", f"action={action}"])
        env = make_levelled_env(action, ledger=Ledger(budget=5))
        with suppress(InstantiationException, ValueError):
            agent = make_agent(config.agent, env)
            with suppress(BudgetExhausted):
                agent.learn(total_timesteps=1)
            taken.append(action)
    row = OVERVIEW[name][2]
    assert taken == (list(ACTIONS) if row == "all" else re.findall(r"`(\w+)`", row))


@pytest.mark.parametrize("page", sorted((DOCS / "agents").glob("*.md")), ids=lambda page: page.stem)
def test_commands_compose(page):
    """Every command is one that Hydra takes."""
    commands = re.findall(r"^ *python -m experiments\.search (.*)$", page.read_text(), re.MULTILINE)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        configs = [compose("search", overrides=shlex.split(command)) for command in commands]
    assert len(configs) >= 3
