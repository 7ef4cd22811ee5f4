import json
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from experiments.common.compose import CONF, compose_config
from experiments.common.learning import FROZEN
from experiments.common.pareto import hypervolume
from experiments.common.searches import Search, search_cell
from experiments.studies import benchmark
from experiments.studies.benchmark import Run, draw, fronts, notes, play, scales, scores, table
from experiments.studies.landscape import wer_and_size
from shrinkml_env.space.table import Table
from tests.helpers.fake_table import TABLE

LIVE = Search("live", "random", "linear", 0, 5)


@pytest.fixture
def few_resamples(monkeypatch):
    """For tests that do not look at the ends of intervals."""
    monkeypatch.setattr("experiments.common.statistics.RESAMPLES", 50)


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["random", "tpe", "ppo", "dqn"])
def test_a_run_is_played_to_its_budget_or_until_it_repeats_itself(fake_table, agent):
    search = Search("tabular", agent, "linear", seed=1, budget=20)
    run = play(search)
    assert (run.agent, run.reward, run.seed) == (agent, "linear", 1)
    assert len(run.rewards) == len(run.feasible) == len(run.wer) == len(run.size_ratio)
    assert len(run.wer) == 20 if agent in ("random", "tpe") else 10 < len(run.wer) <= 20
    assert play(search) == run


def test_overrides_reach_the_environment(fake_table):
    overrides = ("constraint=check", "constraint.budget=0.5")
    run = play(Search("tabular", "random", "linear", 0, 20, overrides))
    assert run.feasible == [size <= 0.5 for size in run.size_ratio]
    assert len(set(run.feasible)) == 2


@pytest.mark.slow
def test_scores_and_table(fake_table, few_resamples, tmp_path, panels):
    config = OmegaConf.create(
        {
            "env": "tabular",
            "table": "las_small",
            "agents": ["random", "perfect"],
            "rewards": ["linear", "amc"],
            "budget": 5,
            "overrides": [],
        }
    )
    run, runs = partial(Run, table="las_small"), []
    for reward in config.rewards:
        zero, one = benchmark.ends(Search("tabular", "random", reward, 0, 5), [])
        assert zero < one
        for seed in range(10):
            found = np.linspace(zero, one, 6)[1:]
            runs.append(run("perfect", reward, seed, found.tolist(), [True] * 5, [0.0] * 5, [1.0] * 5))
            runs.append(run("random", reward, seed, [zero - 9, zero], [True] * 2, [0.0] * 2, [1.0] * 2))
    scale = scales(runs, config)
    results = scores(runs, config, scale)
    assert results["perfect"].shape == (10, 2, 5)
    assert results["perfect"][0, 0] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert results["random"][3, 1] == pytest.approx([-1, 0, 0, 0, 0])  # cut at -1, and nothing new at the end
    shares = fronts(runs, config)
    assert shares["random"].shape == (10, 2, 5)
    best, other = table(results, shares).itertuples(index=False, name=None)
    assert best == ("perfect", "1.000 [1.000, 1.000]", "20 of 20", "5", "0.000 [0.000, 0.000]", "random")
    assert other[0] == "random"
    zero, one = scale["las_small", "linear"]
    assert f"las_small, linear: score 0 is a reward of {zero:.4f}, 1 of {one:.4f}" in notes(results, scale)
    draw(tmp_path / "benchmark.png", results, shares)
    assert min(panels) > 1


def test_shares_of_the_hypervolume(fake_table):
    wer, size = wer_and_size(TABLE)
    median = float(np.median(wer))
    settings = {"agents": ["all", "random"], "rewards": ["linear"], "budget": len(wer), "overrides": []}
    everything = Run("all", "linear", 0, [0.0] * len(wer), [True] * len(wer), wer.tolist(), size.tolist(), [])
    half = int(np.argmin(np.abs(size - 0.5) + wer))
    single = Run("random", "linear", 0, [0.0], [True], [float(wer[half])], [float(size[half])], [])
    on_table = [replace(run, table="las_small") for run in (everything, single)]
    share = fronts(on_table, OmegaConf.create({"env": "tabular", "table": "las_small", **settings}))
    assert share["all"][0, 0, -1] == pytest.approx(1)
    whole = hypervolume(wer, size, median)
    by_hand = max(0, median - wer[half]) * (1 - size[half]) / whole
    assert share["random"][0, 0] == pytest.approx(np.full(len(wer), by_hand))
    live = fronts([everything, single], OmegaConf.create({"env": "live", **settings}))
    # The random agent's only configuration is the median one here, and what is not better than it counts nothing.
    assert live["all"][0, 0, -1] == pytest.approx(1)
    assert live["random"][0, 0, -1] == 0


@pytest.mark.slow
def test_several_tables_are_compared_together_and_one_by_one(few_resamples, tmp_path, capsys):
    one, other = tmp_path / "one.npz", tmp_path / "other.npz"
    TABLE.save(one)
    replace(TABLE, edits={subset: edits // 4 for subset, edits in TABLE.edits.items()}).save(other)
    overrides = ["agents=[ppo,random]", "frozen=[ppo]", "rewards=[linear]", "seeds=1", "budget=20"]
    tables = [f"table=[{one},{other}]", f"outputs={tmp_path}"]
    benchmark.main.__wrapped__(compose_config("benchmark", [*overrides, *tables]))
    together, by_table, learning, scale = capsys.readouterr().out.split("\n\n")
    assert "of 2" in together  # two tables, one reward, one seed
    assert by_table.splitlines()[0].split() == ["agent", str(one), str(other)]
    assert len(learning.splitlines()) == 2 + 2
    wer, size = TABLE.edits["proxy"] // 4 / TABLE.words["proxy"], wer_and_size(TABLE)[1]
    best = max(wer[-1] - wer - 0.2 * size)
    (line,) = [line for line in scale.splitlines() if line.startswith(f"{other}, linear: score 0 ")]
    assert line.endswith(f"1 of {best:.4f}")
    # One table after the other gives the same scores.
    for name in (str(one), str(other)):
        alone = [f"table={name}", f"outputs={tmp_path}"]
        benchmark.main.__wrapped__(compose_config("benchmark", [*overrides, *alone]))
        printed = capsys.readouterr().out.split("\n\n")
        assert len(printed) == 3
        place = by_table.splitlines()[0].split().index(name)
        for line in printed[0].splitlines()[2:]:
            agent, score = re.split(r"\s{2,}", line)[:2]
            (row,) = [row for row in by_table.splitlines() if row.split("  ")[0] == agent]
            assert re.split(r"\s{2,}", row)[place] == score


@pytest.mark.slow
def test_an_agent_beside_itself_without_learning(fake_table, few_resamples, tmp_path, capsys):
    overrides = ["agents=[ppo]", "frozen=[ppo]", "rewards=[linear]", "seeds=2", "budget=20", f"outputs={tmp_path}"]
    benchmark.main.__wrapped__(compose_config("benchmark", overrides))
    printed = capsys.readouterr().out
    assert {line.split("  ")[0] for line in printed.splitlines()} >= {"ppo", "ppo, frozen"}
    assert "without learning (95 %)" in printed
    learned, still = (play(Search("tabular", "ppo", "linear", 0, 20, overrides)) for overrides in ((), (FROZEN,)))
    assert max(learned.returns) == pytest.approx(max(learned.rewards), abs=1e-5)
    assert len(still.returns) >= len(still.rewards)


def test_an_override_of_all_agents_names_none_of_them_frozen(tmp_path):
    overrides = ["agents=[ppo]", "rewards=[linear]", "seeds=1", 'overrides=["agent.learning_rate=0"]']
    (cell,) = benchmark.grid(compose_config("benchmark", overrides))
    assert cell.about["agent"] == "ppo"
    with pytest.raises(ValueError, match=r"frozen: overrides change agent\.learning_rate of all agents"):
        benchmark.grid(compose_config("benchmark", [*overrides, "frozen=[ppo]"]))


def test_runs_of_earlier_versions_have_no_returns():
    earlier = [Run(name, "linear", 0, [0.5], [True], [0.1], [0.5]) for name in ("ppo", "ppo, frozen")]
    (row,) = benchmark.learning_table(earlier, ["ppo"]).itertuples(index=False, name=None)
    assert row == ("ppo", "", "linear", "", "", "", "", "")


def test_scores_are_of_the_runs_own_reward(fake_table):
    plain, heavy = (
        benchmark.ends(Search("tabular", "random", "linear", 0, 5, overrides), [])
        for overrides in ((), ("reward.size_weight=0.9",))
    )
    assert heavy[0] < plain[0]
    assert heavy[1] < plain[1]


def test_overrides_may_be_of_an_agents_options(fake_table):
    settings = {"env": "tabular", "table": "las_small", "agents": ["sac"], "rewards": ["linear"], "budget": 5}
    overrides = ["agent.learning_starts=1000000"]
    changed, unchanged = (OmegaConf.create({**settings, "overrides": given}) for given in (overrides, []))
    assert benchmark.scales([], changed) == benchmark.scales([], unchanged)


def test_configs_are_composed_inside_a_hydra_program_too():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert LIVE.config.agent._target_ == "agents.RandomSearch"


def test_live_scores_are_relative_to_the_random_agent():
    run = Run("ppo", "linear", 0, [0.5], [True], [0.1], [0.5], [])
    drawn = Run("random", "linear", 0, [0.1, 0.3, 0.2], [True] * 3, [0.1] * 3, [0.5] * 3, [])
    assert benchmark.ends(LIVE, [run, drawn]) == (0.2, 0.5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rewards=[linear,vector]", "scalar reward"),
        ("agents=[custom]", "agent=custom needs the path of your class"),
        ("agents=[ppo]", "add it to agents"),
        ("frozen=[sac]", "frozen: 'sac' is compared with itself: add it to agents"),
    ],
)
def test_what_is_wrong_is_found_before_anything_is_made(tmp_path, override, message):
    env = ["env=live"] if message == "add it to agents" else []
    config = compose_config("benchmark", ["agents=[ppo]", "rewards=[linear]", f"outputs={tmp_path}", override, *env])
    with pytest.raises(ValueError, match=message):
        benchmark.main.__wrapped__(config)
    assert not any(tmp_path.iterdir())


def test_what_one_of_the_tables_lacks_is_found_before_anything_is_made(tmp_path):
    overrides = ["agents=[ppo]", "table=[las_small_pivoting,las_small]", f"outputs={tmp_path}"]
    config = compose_config("benchmark", [*overrides, "rewards=[divergence]"])
    with pytest.raises(ValueError, match="table las_small, reward divergence: the reward Divergence"):
        benchmark.main.__wrapped__(config)
    shift = 'overrides=["constraint=shift"]'
    config = compose_config("benchmark", [*overrides, "rewards=[accuracy]", shift])
    with pytest.raises(ValueError, match=r"table las_small, reward accuracy: .* no levels"):
        benchmark.main.__wrapped__(config)
    small = 'overrides=["constraint=decrement","constraint.budget=0.18"]'
    config = compose_config("benchmark", [*overrides, "rewards=[accuracy]", small])
    with pytest.raises(ValueError, match="table las_small_pivoting, reward accuracy: "):
        benchmark.main.__wrapped__(config)
    tight = 'overrides=["constraint=check","constraint.budget=0.19"]'
    config = compose_config("benchmark", [*overrides, "rewards=[linear]", tight])
    with pytest.raises(ValueError, match="reward linear on las_small_pivoting: nothing that meets the constraint"):
        benchmark.main.__wrapped__(config)
    assert not any(tmp_path.iterdir())


def test_tables_that_count_twice_or_not_at_all_are_refused(tmp_path):
    Table.load("las_small").save(tmp_path / "copy.npz")
    copy = [f"table=[las_small,{tmp_path / 'copy.npz'}]", "agents=[random]", f"outputs={tmp_path / 'outputs'}"]
    with pytest.raises(ValueError, match=r"table: las_small and .*copy\.npz are the same one"):
        benchmark.main.__wrapped__(compose_config("benchmark", copy))
    live = ["env=live", "table=[las_small,las_small_pivoting]", "agents=[random]", f"outputs={tmp_path / 'outputs'}"]
    with pytest.raises(ValueError, match="live searches measure, and use no table"):
        benchmark.main.__wrapped__(compose_config("benchmark", live))
    assert not (tmp_path / "outputs").exists()


def test_the_code_of_your_own_agent_is_part_of_what_a_run_depends_on(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    search = Search("live", "custom", "linear", 0, 5, ("agent._target_=my_own.Agent",))
    found = []
    for code in ("class Agent: pass", "class Agent: more = 1"):
        (tmp_path / "my_own.py").write_text(code)
        found.append(search_cell(search).key)
    assert found[0] != found[1]


@pytest.mark.parametrize(("model", "holds_it"), [("{}", "."), ("{}", "compressed"), ("hf:{}", ".")])
def test_another_model_in_the_same_folder_is_another_search(tmp_path, model, holds_it):
    (tmp_path / holds_it).mkdir(exist_ok=True)
    (tmp_path / holds_it / "config.json").write_text("{}")
    (tmp_path / "log.txt").write_text("of the run")
    search = Search("live", "random", "linear", 0, 5, (f"model={model.format(tmp_path)}",))
    keys = []
    for weights in (b"one", b"other", b"one"):
        (tmp_path / holds_it / "model.safetensors").write_bytes(weights)
        keys.append(search_cell(search).key)
    assert keys[0] == keys[2] != keys[1]


def test_an_agent_that_plays_nothing_has_no_score(fake_table, tmp_path, monkeypatch):
    (tmp_path / "idle.py").write_text("class Agent:\n    __init__ = learn = lambda self, *args, **options: None\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="has measured nothing"):
        play(Search("tabular", "custom", "linear", 0, 5, ("agent._target_=idle.Agent",)))


@pytest.mark.slow
def test_other_options_are_other_runs(fake_table):
    search = Search("tabular", "random", "linear", 3, 5)
    other = ({"agent": "tpe"}, {"reward": "amc"}, {"overrides": ("reward.size_weight=0.9",)}, {"env": "live"})
    others = [replace(search, **change) for change in (*other, {"seed": 4}, {"budget": 6})]
    assert len({search_cell(one).key for one in (search, *others)}) == 7
    same = [replace(search, overrides=(override,)) for override in ("workers=3", "memory_mb=1", "outputs=elsewhere")]
    assert {search_cell(one).key for one in same} == {search_cell(search).key}


def test_overrides_that_a_table_ignores_are_refused():
    benchmark.require_effect("live", ["search_space=log"])
    benchmark.require_effect("tabular", ["reward.size_weight=0.3", "agent.learning_rate=0"])
    for override in ("seed=5", "num_envs=4", "device=cuda", "agent=ppo"):
        with pytest.raises(ValueError, match="has no effect: the benchmark sets"):
            benchmark.require_effect("live", [override])
    benchmark.require_effect("tabular", ["reward.size_weight=0.3"])
    with pytest.raises(ValueError, match=r"'search_space.count=3' has no effect on a table"):
        benchmark.require_effect("tabular", ["search_space.count=3"])


def test_scores_need_something_feasible_that_is_better_than_the_middle(fake_table):
    drawn = Run("random", "linear", 0, [0.1, 0.3, 0.2], [True, False, True], [0.1] * 3, [0.5] * 3, [])
    found = Run("ppo", "linear", 0, [0.9, 0.4], [False, True], [0.1] * 2, [0.5] * 2, [])
    assert benchmark.ends(LIVE, [drawn, found]) == (0.2, 0.4)
    with pytest.raises(ValueError, match="reward linear: nothing that meets the constraint is better"):
        benchmark.ends(LIVE, [drawn])
    tight = ("constraint=check", "constraint.budget=0.26")
    with pytest.raises(ValueError, match="reward accuracy on las_small: nothing that meets the constraint is better"):
        benchmark.ends(Search("tabular", "random", "accuracy", 0, 5, tight), [])


@pytest.mark.slow
def test_the_command_goes_on_where_it_was_stopped(few_resamples, tmp_path, capsys):
    """On the shipped table."""
    overrides = ["agents=[uniform,random]", "rewards=[linear]", "seeds=2", "budget=4", f"outputs={tmp_path}"]
    config = compose_config("benchmark", overrides)
    benchmark.main.__wrapped__(config)
    (directory,) = tmp_path.glob("benchmark-*")
    lines = (tmp_path / "results.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 4
    assert {json.loads(line)["cell"]["agent"] for line in lines} == {"uniform", "random"}
    table = (directory / "table.txt").read_text()
    assert {line.split()[0] for line in table.splitlines()[2:4]} == {
        "uniform",
        "random",
    }
    (tmp_path / "results.jsonl").write_text("".join(lines[:-1]))
    benchmark.main.__wrapped__(config)
    assert (tmp_path / "results.jsonl").read_text() == "".join(lines)
    assert (directory / "table.txt").read_text() == table
