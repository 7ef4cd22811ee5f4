import re

import pytest

from experiments.common.compose import compose_config
from experiments.studies import transfer
from experiments.studies.transfer import Learned, curves, grid, judge, on_table, playable
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
    env = playable(f"{tables}/a.npz", REWARD)
    table = on_table(env)
    order = table.rewards.argsort(kind="stable")
    configurations = list(table.table.configurations())
    assert judge(Fixed(env, configurations[order[-1]]), env, 3) == pytest.approx(1)
    middle = order[len(order) // 2]  # 27 configurations
    assert judge(Fixed(env, configurations[middle]), env, 3) == pytest.approx(0)


def test_policies_learn_on_some_tables_and_then_on_another(tables, capsys):
    overrides = ["episodes_before=16", "checkpoints=[0,16]", "judged=5"]
    transfer.main.__wrapped__(config(tables, *overrides))
    printed = capsys.readouterr().out
    assert re.search(r"episodes on .*b\.npz +transferred +from scratch +difference", printed)
    cells = grid(config(tables, *overrides))
    assert [cell.task.before for cell in cells] == [(f"{tables}/a.npz", f"{tables}/b.npz"), ()]
    assert len({cell.key for cell in cells}) == 2


def test_the_first_tables_count(tables):
    """From scratch, tables to train on before change nothing; a policy that comes from them is another."""
    one, other = grid(config(tables)), grid(config(tables, f"train=[{tables}/b.npz,{tables}/b.npz]"))
    assert [a.key == b.key for a, b in zip(one, other, strict=True)] == [False, True]


def test_curves_are_arranged_by_seed_reward_and_checkpoint(tables):
    cells = grid(config(tables, "rewards=[linear,accuracy]", "seeds=2"))
    found = [Learned([place + 0.5, place + 0.75]) for place in range(len(cells))]
    assert [cell.about["arm"] for cell in cells] == ["transferred", "from scratch"] * 4
    assert curves(cells, found, "transferred").tolist() == [[[0.5, 0.75], [4.5, 4.75]], [[2.5, 2.75], [6.5, 6.75]]]


def test_what_does_not_go_together_is_refused(tables):
    with pytest.raises(ValueError, match="all layers must have the same number of candidates"):
        grid(config(tables, f"table={tables}/mixed.npz"))
    with pytest.raises(ValueError, match=r"checkpoints must ascend, got \[10, 0\]"):
        grid(config(tables, "checkpoints=[10,0]"))
