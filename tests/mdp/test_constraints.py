import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkml_env.envs.assembly import make_problem
from shrinkml_env.mdp.constraints import CONSTRAINTS, Budget, Clip, Decrement, Mask, Shift, Unconstrained
from shrinkml_env.space.formation import Full
from tests.helpers.fake_evaluator import LAYERS, FakeEvaluator, make_fake_env
from tests.helpers.levels import levelled

EVALUATOR = FakeEvaluator()
SPACE = levelled(LAYERS, 3)
SMALLEST = EVALUATOR.size_ratio(
    {layer.name: ranks[0] for layer, ranks in zip(SPACE.layers, SPACE.candidates, strict=True)}
)
# Dense, "bridge" needs fewer multiply-adds than at any other rank; "output" more than at 13, fewer than at 26 and 39.
EMBEDDINGS = FakeEvaluator(lookups={"bridge": 5000, "output": 400})
budgets = st.one_of(st.floats(SMALLEST, 1), st.just(SMALLEST))
wishes = st.tuples(*(st.sampled_from(ranks) for ranks in SPACE.candidates))


def named(ranks):
    return {layer.name: rank for layer, rank in zip(SPACE.layers, ranks, strict=True)}


def size(ranks):
    return EVALUATOR.size_ratio(named(ranks))


def macs(ranks, evaluator=EVALUATOR):
    return evaluator.macs(named(ranks)) / evaluator.macs({})


def macs_with_embeddings(ranks):
    return macs(ranks, EMBEDDINGS)


COSTS = {
    "size": ("size", size, EVALUATOR),
    "macs": ("macs", macs, EVALUATOR),
    "embeddings": ("macs", macs_with_embeddings, EMBEDDINGS),
}
CHEAPEST = {name: min(map(cost, itertools.product(*SPACE.candidates))) for name, (_, cost, _) in COSTS.items()}


def test_embeddings_are_not_cheapest_at_their_smallest_rank():
    dense = tuple(ranks[-1] for ranks in SPACE.candidates)
    assert SPACE.candidates[3:] == ((2, 3, 5, 9), (13, 26, 39, 64))
    assert all(macs_with_embeddings((*dense[:3], rank, 64)) > 1 for rank in (2, 3, 5))
    assert macs_with_embeddings((*dense[:4], 13)) < 1 < macs_with_embeddings((*dense[:4], 26))


def play(constraint, wish):
    """One layer at a time."""
    ranks = ()
    for rank in wish:
        ranks = constraint.apply(ranks, (rank,))
    return ranks


@pytest.mark.parametrize("kind", [Clip, Mask, Decrement])
@pytest.mark.parametrize("name", COSTS)
@given(data=st.data())
def test_no_episode_ends_over_budget(kind, name, data):
    resource, cost, evaluator = COSTS[name]
    budget = data.draw(st.one_of(st.floats(CHEAPEST[name], 1), st.just(CHEAPEST[name])))
    constraint = kind(evaluator, SPACE, budget, resource)
    wish = data.draw(wishes)
    ranks = play(constraint, wish)
    assert ranks == constraint.apply((), wish)  # the same all at once
    assert cost(ranks) <= budget
    assert constraint.feasible(named(ranks))
    assert all(rank in candidates for rank, candidates in zip(ranks, SPACE.candidates, strict=True))
    # Only an embedding may have to go up.
    several = 3 if name == "embeddings" else 5
    assert all(rank <= wanted for rank, wanted in zip(ranks[:several], wish, strict=False))
    if cost(wish) <= budget:
        assert ranks == wish  # what is feasible is left alone


@given(budget=st.floats(0.001, 1), wish=wishes)
def test_check_changes_nothing_and_tells(budget, wish):
    constraint = Budget(EVALUATOR, SPACE, budget)
    assert play(constraint, wish) == wish
    assert constraint.feasible(named(wish)) == (size(wish) <= budget)


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("place", [3, 4])
@settings(deadline=None)
@given(data=st.data())
def test_allowed_is_exact(name, place, data):
    """A candidate is allowed if and only if some completion meets the budget."""
    resource, cost, evaluator = COSTS[name]
    budget = data.draw(st.one_of(st.floats(CHEAPEST[name], 1), st.just(CHEAPEST[name])))
    constraint = Clip(evaluator, SPACE, budget, resource)
    wish = data.draw(wishes)
    before, candidates = play(constraint, wish[:place]), SPACE.candidates[place]
    rest = list(itertools.product(*SPACE.candidates[place + 1 :]))
    possible = [any(cost((*before, rank, *others)) <= budget for others in rest) for rank in candidates]
    assert constraint.allowed(before).tolist() == possible
    # The wanted rank, or the next allowed one below it, or the next one above it.
    fitting = [rank for rank, fits in zip(candidates, possible, strict=True) if fits]
    below = [rank for rank in fitting if rank <= wish[place]]
    assert constraint.apply(before, wish[place : place + 1])[-1] == (max(below) if below else min(fitting))


def test_after_too_expensive_ranks_the_cheapest_candidate_is_allowed():
    dense = tuple(ranks[-1] for ranks in SPACE.candidates)
    constraint = Clip(EMBEDDINGS, SPACE, CHEAPEST["embeddings"], "macs")
    assert constraint.allowed(dense[:3]).tolist() == [False, False, False, True]
    assert constraint.allowed(dense[:4]).tolist() == [True, False, False, False]


def test_decrement_by_hand():
    evaluator = FakeEvaluator((LAYERS[1], LAYERS[-1]))
    space = Full(3)(evaluator.layers)
    assert space.candidates == ((17, 34, 51, 64), (13, 26, 39, 64))
    # From dense, one step down at a time: first layer, second layer, first layer, ...
    path = [(64, 64), (51, 64), (51, 39), (34, 39), (34, 26), (17, 26), (17, 13)]
    sizes = [evaluator.size_ratio({"encoder.0": one, "output": other}) for one, other in path]
    for ranks, limit in zip(path, sizes, strict=True):
        assert Decrement(evaluator, space, limit).apply((), (64, 64)) == ranks


def test_decrement_goes_to_the_next_cheaper_candidate():
    evaluator = FakeEvaluator((LAYERS[4], LAYERS[-1]), lookups=EMBEDDINGS.lookups)
    space = Full(3)(evaluator.layers)
    # Multiply-adds of "bridge" in the order 5, 3, 2, 9; of "output" in the order 39, 26, 64, 13.
    path = [(3, 39), (2, 39), (2, 26), (9, 26), (9, 64), (9, 64), (9, 13)]
    costs = [evaluator.macs({"bridge": one, "output": other}) / evaluator.macs({}) for one, other in path]
    for ranks, limit in zip(path, costs, strict=True):
        if limit <= 1:
            assert Decrement(evaluator, space, limit, "macs").apply((), (3, 39)) == ranks
    assert sum(limit <= 1 for limit in costs) == 3


def test_shift_by_hand():
    evaluator = FakeEvaluator((LAYERS[1], LAYERS[-1]))
    space = levelled(evaluator.layers, 3)
    assert space.candidates == ((17, 34, 51, 64), (13, 26, 39, 64))

    def shifted(ranks, within):
        size = evaluator.size_ratio({"encoder.0": within[0], "output": within[1]})
        return Shift(evaluator, space, size).apply((), ranks)

    # The first layer was chosen one level above the second, wherever both were; the budget says where they end.
    for chosen in [(34, 13), (51, 26), (64, 39)]:
        for within in [(34, 13), (51, 26), (64, 39)]:
            assert shifted(chosen, within) == within
    # Above the top there is nothing: the second layer goes on rising alone.
    assert shifted((34, 13), (64, 64)) == (64, 64)
    # A budget between two shifts: the first layer rises, in forward order.
    assert shifted((17, 13), (34, 13)) == (34, 13)


@given(wishes, budgets)
@settings(deadline=None)
def test_shift_ends_at_the_budget(wish, budget):
    """Within it, with no single level to spare; and what it has made of a wish it leaves as it is."""
    constraint = Shift(EVALUATOR, SPACE, budget)
    ranks = play(constraint, wish)
    assert size(ranks) <= budget
    for index, candidates in enumerate(SPACE.candidates):
        place = candidates.index(ranks[index])
        if place + 1 < len(candidates):
            assert size((*ranks[:index], candidates[place + 1], *ranks[index + 1 :])) > budget
    assert play(constraint, ranks) == ranks


def test_shift_needs_levels():
    with pytest.raises(ValueError, match="the search space has no levels"):
        make_problem(EVALUATOR, constraint={"name": "shift", "budget": 0.5})


def test_slack():
    assert Unconstrained(EVALUATOR, SPACE).slack(()) == 1.0
    constraint = Clip(EVALUATOR, SPACE, 0.8)
    assert constraint.slack(()) == pytest.approx(0.8 - SMALLEST, abs=1 / EVALUATOR.params({}))
    chosen = SPACE.candidates[0][1], SPACE.candidates[1][1]
    smallest = SPACE.candidates[0][0], SPACE.candidates[1][0], *(ranks[0] for ranks in SPACE.candidates[2:])
    spent = size((*chosen, *smallest[2:])) - size(smallest)
    assert constraint.slack(chosen) == pytest.approx(0.8 - SMALLEST - spent, abs=1 / EVALUATOR.params({}))
    assert Budget(EVALUATOR, SPACE, 0.01).slack(()) == 0.0
    with_embeddings = Clip(EMBEDDINGS, SPACE, 0.8, "macs")
    assert with_embeddings.slack(()) == pytest.approx(0.8 - CHEAPEST["embeddings"], abs=1e-5)


@pytest.mark.parametrize("name", ["clip", "mask", "decrement", "shift"])
def test_an_impossible_budget(name):
    with pytest.raises(ValueError, match=r"no configuration costs at most 0\.01 of the original's size; the cheapest"):
        make_problem(EVALUATOR, constraint={"name": name, "budget": 0.01}, search_space=levelled)
    make_problem(EVALUATOR, constraint={"name": "check", "budget": 0.01})


@pytest.mark.parametrize("budget", [0, -1, 1.01, float("nan")])
def test_bad_options(budget):
    with pytest.raises(ValueError, match="budget must be a share"):
        Clip(EVALUATOR, SPACE, budget)
    with pytest.raises(ValueError, match="resource must be 'size' or 'macs'"):
        Clip(EVALUATOR, SPACE, 0.5, "bytes")
    with pytest.raises(ValueError, match="constraint 'clip' needs the option 'budget'"):
        make_problem(EVALUATOR, constraint="clip")


@pytest.mark.parametrize("action", ["continuous", "discrete", "energy", "delta", "level", "one_shot"])
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_in_the_environment(action, name):
    constraint = {"name": name} | ({} if name == "none" else {"budget": 0.4})
    if name == "mask" and action != "discrete":
        with pytest.raises(ValueError, match="have no masks: use the constraint 'clip', or discrete actions"):
            make_fake_env(action, constraint=constraint, search_space=levelled)
        return
    env = make_fake_env(action, constraint=constraint, search_space=levelled)
    env.action_space.seed(1)
    rng, played = np.random.default_rng(1), set()
    for _ in range(30):
        env.reset()
        terminated = False
        while not terminated:
            if name == "mask":
                masks = env.action_masks()
                choice = int(rng.choice(np.flatnonzero(masks)))
                *_, terminated, _, info = env.step(choice)
                assert info["projected"] is False
            else:
                *_, terminated, _, info = env.step(env.action_space.sample())
        assert info["feasible"] is (name == "none" or info["size_ratio"] <= 0.4)
        assert info["feasible"] or name == "check"
        played.add(tuple(info["ranks"].values()))
        assert env.problem.is_feasible(info["ranks"]) is info["feasible"]
    assert env.problem.best.feasible or name == "check"
    assert len(played) > 1


@pytest.mark.parametrize("name", CONSTRAINTS)
@given(data=st.data())
@settings(deadline=None, max_examples=20)
def test_masks_are_what_the_constraint_allows(name, data):
    constraint = {"name": name} | ({} if name == "none" else {"budget": 0.3, "resource": "macs"})
    env = make_fake_env("discrete", evaluator=EMBEDDINGS, constraint=constraint, search_space=levelled)
    env.reset()
    for index, candidates in enumerate(env.problem.candidates):
        action = data.draw(st.integers(0, 24))
        masks = env.action_masks()
        assert masks.shape == (25,)
        assert masks.any()
        assert not masks[len(candidates) :].any()
        if name not in ("clip", "mask"):
            assert masks[: len(candidates)].all()
        *_, info = env.step(action)
        if index < 4 or name not in ("decrement", "shift"):
            assert info["projected"] is (not masks[action])
            assert masks[candidates.index(info["ranks"][info["layer"]])]


@pytest.mark.parametrize("name", ["clip", "mask"])
def test_a_masked_index_takes_the_nearest_allowed_rank(name):
    env = make_fake_env("discrete", constraint={"name": name, "budget": 0.3})
    env.reset()
    env.step(0)
    masks = env.action_masks()  # "encoder.0" cannot be dense within 0.3
    assert not masks[24]
    *_, info = env.step(24)
    assert info["projected"] is True
    assert info["ranks"]["encoder.0"] == env.problem.candidates[1][int(masks.sum()) - 1]


def test_the_best_is_feasible():
    problem = make_problem(EVALUATOR, constraint={"name": "check", "budget": 0.5}, reward="accuracy")
    problem.evaluate({})
    smallest = {layer.name: ranks[0] for layer, ranks in zip(problem.layers, problem.candidates, strict=True)}
    problem.evaluate(smallest)
    dense, small = problem.history
    assert (dense.feasible, small.feasible) == (False, True)
    assert dense.reward > small.reward
    assert problem.best == small


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_the_size_limit_is_the_budget_of_parameters(name):
    options = {} if name == "none" else {"budget": 0.5}
    problem = make_problem(EVALUATOR, constraint={"name": name, **options}, search_space=levelled)
    assert problem.size_limit == problem.constraint.size_limit == options.get("budget")
    if options:
        by_macs = {"name": name, "resource": "macs", **options}
        assert make_problem(EVALUATOR, constraint=by_macs, search_space=levelled).size_limit is None


def test_which_constraints_change_decisions():
    class Strict(Budget):
        """Looks at less than its budget."""

        def feasible(self, ranks):
            return super().feasible(ranks) and ranks["output"] < 39

    class Halves(Unconstrained):
        def apply(self, ranks, wanted):
            return (*ranks, *(self.search_space.candidates[0][:1]))

    kinds = [*CONSTRAINTS.values(), Strict, Halves]
    changing = {kind for kind in kinds if object.__new__(kind).changes_decisions}
    assert changing == {Clip, Mask, Decrement, Shift, Halves}
