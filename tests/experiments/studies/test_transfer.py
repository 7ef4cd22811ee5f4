import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.common.compose import compose_config
from experiments.studies import transfer
from experiments.studies.transfer import Learned, curves, grid, judge, make_flat_env, on_table
from shrinkml_env.space.table import Table
from tests.helpers.fake_table import TABLE, make_table

REWARD = compose_config("search", ["reward=linear"]).reward


@pytest.fixture
def tables(tmp_path):
    """Two tables whose layers have three candidates each, and one whose layers have three or four."""
    make_table({"first": [2, 7], "second": [5, 20], "third": [3, 10]}).save(tmp_path / "a.npz")
    make_table({"first": [7, 14], "second": [5, 20], "third": [10, 39]}).save(tmp_path / "b.npz")
    TABLE.save(tmp_path / "mixed.npz")
    return tmp_path


def config(tables, *overrides):
    given = [f"train=[{tables}/a.npz,{tables}/b.npz]", f"table={tables}/b.npz", f"outputs={tables}/out", "reuse=false"]
    return compose_config("transfer", [*given, "rewards=[linear]", "seeds=1", *overrides])


class Fixed:
    """An agent that plays one configuration."""

    def __init__(self, env, ranks):
        self.actions = list(on_table(env).actions_for(ranks))
        self.played = 0

    def predict(self, observation, deterministic):
        assert observation.shape == (22,)  # 17 features of the layer, five of the episode
        self.played += 1
        return self.actions[(self.played - 1) % len(self.actions)], None


def test_the_optimum_scores_one_and_the_median_zero(tables):
    env = make_flat_env(f"{tables}/a.npz", REWARD)
    table = on_table(env)
    order = table.rewards.argsort(kind="stable")
    configurations = list(table.table.configurations())
    assert judge(Fixed(env, configurations[order[-1]]), env, 3) == pytest.approx(1)
    middle = order[len(order) // 2]  # 27 configurations
    assert judge(Fixed(env, configurations[middle]), env, 3) == pytest.approx(0)


@pytest.fixture
def steps(monkeypatch):
    """Counts the steps on each table while agents learn."""
    counts = Counter()
    made = transfer.make_flat_env

    def counted(table, reward):
        env = made(table, reward)
        step = env.unwrapped.step
        env.unwrapped.step = lambda action: (counts.update([Path(table).name]), step(action))[1]
        return env

    monkeypatch.setattr(transfer, "make_flat_env", counted)
    return counts


def test_policies_learn_on_some_tables_and_then_on_another(tables, capsys, steps):
    overrides = ["episodes_before=32", "checkpoints=[0,16]", "judged=5"]
    cells = grid(config(tables, *overrides, f"train=[{tables}/a.npz,{tables}/a.npz]"))
    assert [len(cell.task.before) for cell in cells] == [2, 0]
    transfer.make(cells[0].task)
    # Three steps an episode: 32 before, then 16 and twice 5 that are judged.
    assert steps == {"a.npz": 3 * 32, "b.npz": 3 * (16 + 10)}
    steps.clear()
    transfer.make(cells[1].task)
    assert steps == {"b.npz": 3 * (16 + 10)}
    transfer.main.__wrapped__(config(tables, *overrides))
    assert re.search(r"episodes on .*b\.npz +transferred +from scratch +difference", capsys.readouterr().out)


def test_a_policy_that_comes_from_other_tables_is_theirs(tables, monkeypatch):
    cells = grid(config(tables, "episodes_before=64", "checkpoints=[0]", "judged=1"))
    judged = []
    monkeypatch.setattr(transfer, "judge", lambda agent, *_: judged.append(agent.policy.state_dict()) or 0.0)
    for cell in cells:
        transfer.make(cell.task)
    before = transfer.new_agent(cells[0].task.agent, cells[0].task.before, REWARD)
    before.learn(64 * 3)
    transferred, scratch = (list(found.values()) for found in judged)
    learned = list(before.policy.state_dict().values())
    assert all(map(torch.equal, transferred, learned))
    assert not all(map(torch.equal, scratch, learned))


def test_judging_changes_nothing_of_what_is_learned(tables):
    (task,) = (cell.task for cell in grid(config(tables, "checkpoints=[0,16,32]", "judged=5"))[1:])
    seldom = replace(task, checkpoints=(0, 32), judged=40)
    agents = []
    for one in (task, seldom):
        agent = transfer.new_agent(one.agent, [one.table], one.reward)
        env = make_flat_env(one.table, one.reward)
        judge(agent, env, one.judged)
        agent.learn(48)
        agents.append(agent.policy.state_dict().values())
    assert all(map(torch.equal, *agents))


def test_the_first_tables_count(tables):
    """From scratch, tables to train on before change nothing; a policy that comes from them is another."""
    one, other = grid(config(tables)), grid(config(tables, f"train=[{tables}/b.npz,{tables}/b.npz]"))
    assert [a.key == b.key for a, b in zip(one, other, strict=True)] == [False, True]


def test_curves_are_arranged_by_seed_reward_and_checkpoint(tables):
    cells = grid(config(tables, "rewards=[linear,accuracy]", "seeds=2"))
    found = [Learned([place + 0.5, place + 0.75]) for place in range(len(cells))]
    assert [cell.about["arm"] for cell in cells] == ["transferred", "from scratch"] * 4
    assert curves(cells, found, "transferred").tolist() == [[[0.5, 0.75], [4.5, 4.75]], [[2.5, 2.75], [6.5, 6.75]]]


def test_what_does_not_go_together_is_refused(tables, monkeypatch):
    with pytest.raises(ValueError, match="all layers must have the same number of candidates"):
        grid(config(tables, f"table={tables}/mixed.npz"))
    with pytest.raises(ValueError, match=r"checkpoints must ascend, got \[8, 0\]"):
        grid(config(tables, "checkpoints=[8,0]"))
    with pytest.raises(ValueError, match="checkpoints must be multiples of 8, the episodes between two updates"):
        grid(config(tables, "checkpoints=[0,10]"))
    shorter = replace(TABLE, layers=TABLE.layers[:1], candidates=((2, 7, 27),))
    load = Table.load
    monkeypatch.setattr(Table, "load", lambda name: shorter if name == "short" else load(name))
    with pytest.raises(ValueError, match="train: tables must have the same number of layers"):
        grid(config(tables, f"train=[{tables}/a.npz,short]"))
