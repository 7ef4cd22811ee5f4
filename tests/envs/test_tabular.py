import copy
import pickle
import warnings
from dataclasses import replace
from functools import partial
from itertools import product

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from shrinkml_env.compression.layers import arrange_layers
from shrinkml_env.envs.assembly import assemble_env
from shrinkml_env.envs.registration import make_tabular_env, make_vector_tabular_env
from shrinkml_env.evaluation.ledger import BudgetExhausted, Ledger
from shrinkml_env.mdp.constraints import Budget
from shrinkml_env.space.formation import Explicit
from shrinkml_env.space.table import Table
from tests.helpers.fake_table import CANDIDATES, LAYERS, LIVE, TABLE


@pytest.mark.parametrize("action", ["discrete", "continuous"])
@pytest.mark.parametrize("reward", ["linear", "threshold", "amc", "harmonic"])
@pytest.mark.parametrize("observation", ["features", "dict"])
def test_the_same_as_live(action, reward, observation):
    tabular = make_tabular_env(action, observation, reward, table=TABLE)
    live = assemble_env(LIVE, action, observation, reward=reward, search_space=Explicit(CANDIDATES))
    assert tabular.action_space == live.action_space
    assert tabular.observation_space == live.observation_space
    tabular.action_space.seed(2)
    for _ in range(2):  # the second time everything is known
        for _ in range(40):
            assert repr(tabular.reset(seed=1)) == repr(live.reset(seed=1))
            for _ in LAYERS:
                chosen = tabular.action_space.sample()
                (*found, info), (*expected, wanted) = tabular.step(chosen), live.step(chosen)
                assert repr(found) == repr(expected)
                assert info == wanted
    assert tabular.problem.ledger.count == live.problem.ledger.count > 10


LEVELS = replace(TABLE, levels=((0, 1, 2, 3), (0, 0, 1, 2), (0, 1, 2, 3)))

CONSTRAINED = [("discrete", kind) for kind in ("check", "clip", "mask", "decrement", "shift")]
CONSTRAINED += [(action, "shift") for action in ("continuous", "energy", "level")]


@pytest.mark.parametrize(("action", "kind"), CONSTRAINED)
@pytest.mark.parametrize("budget", [0.3, 0.6])
def test_constraints_change_the_same_decisions_as_live(action, kind, budget):
    constraint = {"name": kind, "budget": budget}
    tabular = make_tabular_env(action, constraint=constraint, table=LEVELS)
    live = assemble_env(LIVE, action, constraint=constraint, search_space=LEVELS.search_space)
    vector = make_vector_tabular_env(1, action=action, constraint=constraint, table=LEVELS)
    tabular.action_space.seed(2)
    changed = 0
    candidates = tabular.problem.search_space.candidates
    for _ in range(30):
        asked = []
        assert repr(tabular.reset()) == repr(live.reset())
        vector.reset()
        for depth in range(len(LAYERS)):
            if kind == "mask":
                assert tabular.action_masks().tolist() == live.action_masks().tolist()
            chosen = tabular.action_space.sample()
            (*found, info), (*expected, wanted) = tabular.step(chosen), live.step(chosen)
            assert repr(found) == repr(expected)
            assert info == wanted
            asked.append(candidates[depth][tabular.action.place(depth, chosen)[0]])
            seen, (reward,), _, _, infos = vector.step(np.array([chosen]))
            assert np.array_equal(infos.get("final_obs", seen)[0], expected[0])
            assert infos["size_ratio"] == [info["size_ratio"]]
        assert reward == expected[1]
        assert infos["wer"] == [info["wer"]]
        assert infos["number"] == [LEVELS.index(info["ranks"])]
        changed += list(info["ranks"].values()) != asked
    assert (changed > 5) == (kind != "check")


@pytest.mark.parametrize("kind", ["check", "clip", "decrement", "shift"])
def test_rewards_and_optimum_are_those_of_the_episodes(kind):
    constraint = {"name": kind, "budget": 0.6}
    env = make_tabular_env(constraint=constraint, reward={"name": "linear", "size_weight": 0.3}, table=LEVELS)
    rewards, feasible = [], []
    for actions in product(*map(range, env.problem.search_space.counts)):
        env.reset()
        for action in actions:
            _, reward, *_, info = env.step(action)
        rewards.append(reward)
        feasible.append(info["feasible"])
    assert env.rewards.tolist() == rewards
    assert env.feasible.tolist() == feasible
    assert all(feasible) == (kind != "check")
    assert env.optimum == max(reward for reward, meets in zip(rewards, feasible, strict=True) if meets)
    assert env.regret(float(np.median(rewards))) == pytest.approx(1)


def test_there_is_no_regret_where_all_episodes_end_alike():
    env = make_tabular_env(constraint={"name": "shift", "budget": 1.0}, table=LEVELS)
    with pytest.raises(ValueError, match="nothing that meets the constraint is better than the median"):
        env.regret(0.0)


def test_every_place_on_the_line_is_the_same_candidate():
    tabular = make_tabular_env("continuous", table=TABLE)
    live = assemble_env(LIVE, "continuous", search_space=Explicit(CANDIDATES))
    # Every candidate itself, the halves between neighbours, and what lies beside them.
    values = np.concatenate([np.linspace(-1, 1, 2001), [np.nextafter(0, 1)]])
    for value in values:
        tabular.reset()
        live.reset()
        one, other = (env.step(np.array([value]))[-1]["ranks"] for env in (tabular, live))
        assert one == other, value


@pytest.mark.slow
def test_both_checkers_pass_without_a_warning():
    for action in ("discrete", "continuous"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            env = gym.make("ShrinkMLTabular-v0", action=action, table=TABLE, render_mode="ansi").unwrapped
            check_env(env)
            sb3_check_env(env)


def test_optimum_and_regret_by_enumeration():
    env = make_tabular_env(table=TABLE, reward={"name": "linear", "size_weight": 0.5})
    rewards = []
    for ranks in TABLE.configurations():
        evaluation = LIVE.evaluate(ranks)
        rewards.append(-(evaluation.wer - LIVE.baseline.wer) - 0.5 * evaluation.size_ratio)
    assert env.rewards == pytest.approx(rewards)
    assert env.optimum == pytest.approx(max(rewards))
    assert env.regret(max(rewards)) == pytest.approx(0)
    assert env.regret(float(np.median(rewards))) == pytest.approx(1)
    best = list(TABLE.configurations())[int(np.argmax(rewards))]
    env.reset()
    for action in env.actions_for(best):
        _, reward, *_ = env.step(action)
    assert env.regret(reward) == pytest.approx(0)


def test_the_optimum_is_feasible():
    free = make_tabular_env(table=TABLE)
    bound = make_tabular_env(table=TABLE, constraint={"name": "check", "budget": 0.3})
    rewards = [
        bound.problem.reward(LIVE.evaluate(ranks))[0]
        for ranks in TABLE.configurations()
        if LIVE.size_ratio(ranks) <= 0.3
    ]
    assert bound.optimum == pytest.approx(max(rewards))
    assert bound.optimum < free.optimum
    with pytest.raises(ValueError, match="no configuration of the table meets the constraint"):
        _ = make_tabular_env(table=TABLE, constraint={"name": "check", "budget": 0.001}).optimum


def test_a_set_may_be_known_in_part():
    evaluator = TABLE.evaluator("dev")
    configurations = list(TABLE.configurations())
    assert evaluator.evaluate(configurations[5]).wer == LIVE.evaluate(configurations[5]).wer
    assert evaluator.baseline.wer == LIVE.baseline.wer
    with pytest.raises(ValueError, match=r"the table does not hold .* on 'dev'"):
        evaluator.evaluate(configurations[6])


def test_live_arguments_are_those_of_the_environment():
    env = make_tabular_env("continuous", "dict", "amc", {"name": "check", "budget": 0.5}, table=TABLE)
    assert {name: env.live_kwargs[name] for name in ("action", "observation", "reward", "constraint", "proxy")} == {
        "action": "continuous",
        "observation": "dict",
        "reward": "amc",
        "constraint": {"name": "check", "budget": 0.5},
        "proxy": "proxy",
    }


def test_ledger_and_budget():
    env = make_tabular_env(table=TABLE, ledger=Ledger(budget=1))

    def play(actions):
        env.reset()
        for action in actions:
            result = env.step(action)
        return result

    first = play([0, 1, 2])
    assert repr(play([0, 1, 2])) == repr(first)
    with pytest.raises(BudgetExhausted):
        play([1, 1, 2])
    assert env.problem.ledger.count == 1


@pytest.mark.parametrize("observation", ["features", "dict"])
def test_what_is_returned_may_be_changed(observation):
    env = make_tabular_env(table=TABLE, observation=observation)

    def play():
        env.reset()
        return [env.step(1) for _ in LAYERS]

    expected = repr(play())
    for seen, *_, info in play():
        for box in seen.values() if observation == "dict" else [seen]:
            box[:] = 9
        info["ranks"]["first"] = 9
        info.get("reward_terms", {})["size"] = 9
    assert repr(play()) == expected


def test_mistakes_and_masks():
    env = make_tabular_env(table=TABLE)
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.reset()
    env.step(0)
    assert env.action_masks().tolist() == [True, True, True, False]  # "second" has two ranks and dense
    for bad in (4, -1, 1.0, True, None, np.array([0])):
        with pytest.raises(ValueError, match="layer 'second': the action must be an integer"):
            env.step(bad)
    *_, info = env.step(3)
    assert info["projected"] is True
    box = make_tabular_env("continuous", table=TABLE)
    assert not hasattr(box, "action_masks")
    box.reset()
    for bad in (0.5, np.array([0]), np.array([np.nan]), np.array([1.5]), None):
        with pytest.raises(ValueError, match="layer 'first': the action must be an array of one float"):
            box.step(bad)
    with pytest.raises(
        ValueError, match="the search space has no levels: take search_space='predicted' or 'allocated'"
    ):
        make_tabular_env(constraint={"name": "shift", "budget": 0.5}, table=TABLE)
    with pytest.raises(ValueError, match=r"needs the divergence .*a table that holds divergences"):
        make_tabular_env(reward="divergence", table=TABLE)
    with pytest.raises(ValueError, match="needs a scalar reward"):
        make_tabular_env(reward="vector", table=TABLE)
    with pytest.raises(ValueError, match="no set 'train'; it has proxy"):
        make_tabular_env(subset="train", table=TABLE)
    with pytest.raises(ValueError, match="layer 'first': rank 4 is not a candidate"):
        TABLE.evaluator().evaluate({"first": 4})


def richer_table():
    """The table with another form of factors, a stack, levels, and divergences: of configuration n, n / 100."""
    layers = list(arrange_layers(LAYERS, "pivoting"))
    (whole,) = layers[2].matrices
    parts = [replace(whole, name=name, rows=whole.rows // 2) for name in ("third.a", "third.b")]
    layers[2] = replace(layers[2], matrices=(replace(whole, parts=tuple(parts)),))
    numbers = np.arange(TABLE.size, dtype=np.float32) / 100
    unknown = np.where(TABLE.edits["dev"] < 0, np.float32(np.nan), numbers)
    return replace(
        TABLE,
        layers=tuple(layers),
        positions={subset: {**known, "third.a": 100, "third.b": 100} for subset, known in TABLE.positions.items()},
        divergence={"proxy": numbers, "dev": unknown, "test": unknown},
        factorisation={"name": "activation_aware", "form": "pivoting"},
        levels=((0, 1, 2, 3), (0, 0, 1, 2), (0, 1, 2, 3)),
    )


def test_forms_levels_and_divergences_are_saved_and_read_again(tmp_path):
    table = richer_table()
    table.save(tmp_path / "table.npz")
    loaded = Table.load(tmp_path / "table.npz")
    assert loaded.layers == table.layers
    assert loaded.levels == table.levels
    assert loaded.search_space.levels == table.levels
    assert loaded.live_kwargs()["factorisation"] == {"name": "activation_aware", "form": "pivoting"}
    assert loaded.content == table.content != TABLE.content
    assert loaded.evaluator().factorisation_name == "activation_aware in pivoting form"
    for number, ranks in enumerate(table.configurations()):
        found = loaded.evaluator().evaluate(ranks)
        assert found == table.evaluator().evaluate(ranks) == loaded.evaluator().evaluations[number]
        assert found.divergence == pytest.approx(number / 100)
    table = replace(table, divergence={**table.divergence, "dev": np.zeros(3, np.float32)})
    table.save(tmp_path / "table.npz")
    with pytest.raises(ValueError, match="divergences of dev are not 48 numbers"):
        Table.load(tmp_path / "table.npz")


def test_a_reward_of_the_divergence():
    """In the table the divergence grows with the number of a configuration, so that the smallest one is best."""
    env = make_tabular_env(reward="divergence", table=richer_table())
    assert env.optimum == 0.0
    assert env.rewards.argmax() == 0
    env.reset()
    for _ in range(2):
        env.step(0)
    _, reward, terminated, _, info = env.step(1)
    assert terminated
    assert (reward, info["divergence"]) == (pytest.approx(-0.01), pytest.approx(0.01))


def test_tables_by_name():
    assert make_tabular_env(table="las_small").table is Table.load()
    with pytest.raises(
        FileNotFoundError, match=r"no table is named 'las_large', and there is no such file; .* las_small"
    ):
        make_tabular_env(table="las_large")
    with pytest.raises(ValueError, match="name or the file of a table, or a Table, got 3"):
        make_tabular_env(table=3)


def test_saved_and_read_again(tmp_path):
    TABLE.save(tmp_path / "table.npz")
    loaded = Table.load(tmp_path / "table.npz")
    assert loaded.layers == TABLE.layers
    assert loaded.candidates == TABLE.candidates
    for ranks in TABLE.configurations():
        assert loaded.evaluator().evaluate(ranks) == TABLE.evaluator().evaluate(ranks)
    assert loaded.live_kwargs() == TABLE.live_kwargs()
    assert loaded.content == TABLE.content
    assert loaded.live_kwargs()["search_space"] == Explicit(CANDIDATES)(LAYERS)
    for content in (b"", b"nothing"):
        (tmp_path / "other.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"other\.npz is not a table"):
            Table.load(tmp_path / "other.npz")


def test_pickles_and_deep_copies():
    env = make_tabular_env(table=TABLE)
    env.reset()
    env.step(1)
    for other in (pickle.loads(pickle.dumps(env)), copy.deepcopy(env)):
        assert repr(other.step(2)) == repr(copy.deepcopy(env).step(2))


@pytest.mark.parametrize("action", ["discrete", "continuous", "energy", "level"])
def test_the_vector_version_does_the_same(action):
    table = richer_table() if action == "level" else TABLE
    vector = make_vector_tabular_env(50, action=action, table=table)
    single = make_tabular_env(action, table=table)
    observations, _ = vector.reset(seed=0)
    vector.action_space.seed(3)
    batches = [vector.action_space.sample() for _ in LAYERS]
    results = [vector.step(actions) for actions in batches]
    for index in range(50):
        expected, _ = single.reset()
        assert np.array_equal(observations[index], expected)
        for actions, (observed, rewards, terminated, _, infos) in zip(batches, results, strict=True):
            chosen = int(actions[index]) if action == "discrete" else actions[index]
            expected, reward, over, _, info = single.step(chosen)
            last = infos["final_obs"] if over else observed
            assert np.array_equal(last[index], expected)
            assert (rewards[index], terminated[index]) == (reward, over)
            assert infos["size_ratio"][index] == info["size_ratio"]
        assert infos["wer"][index] == infos["final_info"]["wer"][index] == info["wer"]
        assert TABLE.index(info["ranks"]) == infos["number"][index]
    assert all(infos[f"_{name}"].all() for name in ("size_ratio", "wer", "number", "final_obs", "final_info"))
    assert np.array_equal(observed, observations)  # the next episodes have begun
    with pytest.raises(ValueError, match="layer 'first': an action is outside"):
        vector.step(np.full_like(batches[0], 99))


def test_level_actions_of_zero_end_at_the_common_level():
    env = make_tabular_env("level", reward="divergence", table=richer_table())
    env.reset()
    for _ in LAYERS:
        _, reward, *_, info = env.step(np.zeros(1))
    places = [level[env.action.common] for level in richer_table().levels]
    assert info["ranks"] == env.problem.search_space.ranks(places)
    assert reward == pytest.approx(-richer_table().index(info["ranks"]) / 100)


@pytest.mark.parametrize("action", ["delta", "one_shot"])
def test_actions_that_depend_on_more_than_the_layer(action):
    with pytest.raises(ValueError, match="tabular environments need actions whose meaning depends on the layer alone"):
        make_tabular_env(action, table=TABLE)


def test_render():
    env = make_tabular_env(table=TABLE, render_mode="ansi")
    env.reset()
    env.step(0)
    assert "1 of 3 layers decided" in env.render()
    env.step(0)
    env.step(0)
    assert "WER" in env.render()


def test_registered():
    spec = gym.spec("ShrinkMLTabular-v0")
    env = gym.make(spec, table=TABLE)
    env.reset(seed=0)
    assert env.step(0)[-1]["layer"] == "first"
    envs = gym.make_vec("ShrinkMLTabular-v0", num_envs=3, table=TABLE)
    assert envs.num_envs == 3
    envs.reset(seed=0)
    envs.step(np.zeros(3, np.uint64))  # integers of any type


def test_actions_that_are_rescaled_in_float32_are_played():
    env = make_tabular_env("continuous", table=TABLE)
    rescaled = gym.wrappers.RescaleAction(env, np.float32(0.1), np.float32(0.9))
    for bound in (0.1, 0.9):
        rescaled.reset(seed=0)
        rescaled.step(np.float32([bound]))
    envs = make_vector_tabular_env(2, action="continuous", table=TABLE)
    envs.reset()
    edge = np.nextafter(np.float32(1), np.float32(2))
    envs.step(np.float32([[edge], [-edge]]))
    with pytest.raises(ValueError, match=r"outside \[-1, 1\]"):
        envs.step(np.float32([[1.00001], [0]]))
    assert envs.autoreset_mode is envs.metadata["autoreset_mode"]


def test_constraints_of_your_own_that_change_no_decision():
    class Small(Budget):
        def feasible(self, ranks):
            return super().feasible(ranks) and ranks["third"] == 3

    env = make_tabular_env(constraint=partial(Small, budget=0.9), table=TABLE)
    assert {ranks[2] for ranks, fits in zip(product(*TABLE.candidates), env.feasible, strict=True) if fits} == {3}
    rewards = [reward for reward, fits in zip(env.rewards, env.feasible, strict=True) if fits]
    assert env.optimum == max(rewards)


def test_the_vector_version_refuses_what_is_wrong():
    for wrong in 0, 1.5, True:
        with pytest.raises(ValueError, match="num_envs must be a whole number of at least 1"):
            make_vector_tabular_env(wrong, table=TABLE)
    envs = make_vector_tabular_env(2, table=TABLE)
    with pytest.raises(ResetNeeded, match="no episode has begun"):
        envs.step(np.array([0, 1]))
    envs.reset(seed=np.int64(3))
    with pytest.raises(ValueError, match="3 actions for 2 environments"):
        envs.step(np.array([0, 1, 2]))


def test_the_vector_version_has_the_masks_of_the_single_one():
    constraint = {"name": "mask", "budget": 0.6}
    vector = gym.make_vec("ShrinkMLTabular-v0", num_envs=30, table=TABLE, constraint=constraint).unwrapped
    singles = [make_tabular_env(table=TABLE, constraint=constraint) for _ in range(30)]
    rng = np.random.default_rng(0)
    vector.reset()
    for env in singles:
        env.reset()
    forbidden = 0
    for _ in LAYERS:
        masks = vector.action_masks()
        assert np.array_equal(masks, [env.action_masks() for env in singles])
        forbidden += (~masks).sum()
        actions = [rng.choice(np.flatnonzero(mask)) for mask in masks]
        vector.step(np.array(actions))
        for env, action in zip(singles, actions, strict=True):
            env.step(action)
    assert forbidden > 0
    assert not hasattr(make_vector_tabular_env(2, table=TABLE, action="continuous"), "action_masks")


@pytest.mark.parametrize("lacking", [{"ledger": {"budget": 2}}, {"render_mode": "ansi"}])
def test_what_the_vector_version_cannot_do(lacking):
    (name,) = lacking
    with pytest.raises(ValueError, match=f"the vector version .* leave out `{name}`, or use gym.make"):
        make_vector_tabular_env(2, table=TABLE, **lacking)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"action": "delta"}, "whose meaning depends on the layer alone"),
        ({"observation": "x"}, "no observation is named"),
        ({"render_mode": "x"}, "render_mode"),
    ],
)
def test_a_mistake_leaves_the_ledgers_file_unlocked(tmp_path, wrong, message):
    """Whoever looks at the error keeps it alive, and all that it has seen."""
    ledger = {"path": tmp_path / "evaluations.jsonl"}
    with pytest.raises(ValueError, match=message) as error:
        make_tabular_env(table=TABLE, ledger=ledger, **wrong)
    env = make_tabular_env(table=TABLE, ledger=ledger)
    env.close()
    assert error.value is not None


def test_the_vector_version_needs_every_configuration():
    with pytest.raises(ValueError, match="holds only some configurations on 'dev'"):
        make_vector_tabular_env(2, subset="dev", table=TABLE)
