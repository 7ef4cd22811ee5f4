from dataclasses import replace

import pytest

from experiments.common.compose import compose_config
from experiments.common.sized_searches import Chosen
from experiments.studies import tradeoff
from experiments.studies.tradeoff import draw, learning_table, pair_table, table


def rows(*arguments):
    return [tuple(row) for row in table(*arguments).itertuples(index=False, name=None)]


def found(agent, size, seed, edits, dev_wer=0.1, size_ratio=None):
    """A search on three test utterances of ten words, in each of which the original makes one error."""
    ranks = {"output": 4}
    return Chosen(agent, size, seed, ranks, size_ratio or size, 5, 0.1, dev_wer, edits, [1, 1, 1], [10, 10, 10])


FOUND = [
    found("uniform", 0.5, 0, [4, 4, 4]),
    found("ppo", 0.5, 0, [2, 2, 2], dev_wer=0.3),
    found("ppo", 0.5, 1, [1, 1, 1], dev_wer=0.2),
    found("uniform", 0.25, 0, [9, 9, 9], size_ratio=0.3),
    found("ppo", 0.25, 0, [3, 3, 3]),
]


def test_dev_chooses_and_test_is_reported():
    by_hand, ppo, nothing, small = rows(FOUND, ["uniform"])
    assert by_hand == ("0.5", "uniform (by hand)", "1 of 1", "", "", "0.500", "40.00", "+30.00 (+30.00)", "")
    assert ppo[:3] == ("0.5", "ppo", "2 of 2")
    # The seeds' WERs are 20 % and 10 %, the rule's 40 %.
    assert ppo[3] == "15.00"
    assert ppo[4] == "-25.00"
    assert ppo[5:] == ("0.500", "10.00", "+0.00 (+0.00)", "-30.00 [-30.00, -30.00]")
    # What kept no size is said to have found nothing, and cannot be compared with.
    assert nothing == ("0.25", "uniform", "0 of 1", *[""] * 6)
    assert small[5:] == ("0.250", "30.00", "+20.00 (+20.00)", "")


def test_seeds_that_did_not_keep_the_size_are_counted_and_left_out():
    row = rows([*FOUND[:3], found("ppo", 0.5, 2, [0, 0, 0], size_ratio=0.6)], ["uniform"])[1]
    assert row[2] == "2 of 3"
    assert row[3] == "15.00"


def test_the_best_by_hand_is_best_on_dev():
    other = found("profile", 0.5, 0, [9, 9, 9], dev_wer=0.05)
    named = [row[1] for row in rows([FOUND[0], other], ["uniform", "profile"])]
    assert named == ["uniform", "profile (by hand)"]


def test_means_of_seeds_are_paired():
    compared = pair_table(FOUND, [("ppo", "uniform"), ("uniform", "nobody")])
    assert list(compared.itertuples(index=False, name=None)) == [("0.5", "ppo", "uniform", "-25.00")]


def test_learning_is_measured_against_the_same_agent_without_it():
    def run(agent, seed, start, end):
        noise = [0.01 * (-1) ** episode for episode in range(100)]
        returns = [start + (end - start) * episode / 99 + noise[episode] for episode in range(100)]
        return replace(found(agent, 0.5, seed, [1, 1, 1]), passes=1200, returns=returns)

    runs = [run("ppo", 0, -0.5, -0.1), run("ppo", 1, -0.5, -0.5), run("ppo, frozen", 0, -0.5, -0.5)]
    (row,) = learning_table(runs, {"ppo": "ppo, frozen", "sac": "sac, frozen"}).itertuples(index=False, name=None)
    size, agent, passes, episodes, first, last, without, above = row
    assert (size, agent, passes, episodes) == ("0.5", "ppo", "1,200", "100")
    # The tenths' means: the line at 4.5 / 99 and 94.5 / 99 of the way; the second run stays where it began.
    assert float(first) == pytest.approx(((-0.5 + 0.4 * 4.5 / 99) - 0.5) / 2, abs=1e-4)
    assert float(last.split()[0]) == pytest.approx(((-0.5 + 0.4 * 94.5 / 99) - 0.5) / 2, abs=1e-4)
    assert without == "-0.5000"
    assert above == "1 of 2"
    assert learning_table(FOUND, {"ppo": "uniform"}).empty


def test_a_picture(tmp_path, panels):
    draw(tmp_path / "tradeoff.png", FOUND)
    assert min(panels) > 1


def test_rules_of_the_same_settings_share_a_result_under_their_own_names(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tradeoff, "study_results", lambda name, config, cells, *_: [FOUND[0] for _ in cells])
    rules = "+comparison.rules={mine: {agent: uniform}, yours: {agent: uniform}}"
    overrides = ["~comparison.rules", rules, "~comparison.agents", "+comparison.agents={}", "comparison.sizes=[0.5]"]
    none = ["comparison.by_hand=[]", "comparison.pairs=[[mine,yours]]", f"outputs={tmp_path}"]
    tradeoff.main.__wrapped__(compose_config("tradeoff", [*overrides, *none]))
    printed = capsys.readouterr().out
    assert [line.split()[1] for line in printed.splitlines() if line.startswith("0.5 ")] == ["mine", "yours", "mine"]


def test_sizes_may_be_fewer_than_an_agents_own():
    """As for the agents that are compared at 0.4 alone."""
    cells = tradeoff.grid(compose_config("tradeoff", ["comparison.sizes=[0.2]"]))
    assert cells
    assert not {"random", "tpe"} & {cell.task.name for cell in cells}
