from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkml_env.space.allocation import Choices, allocate, largest_within


def totals(layers, chosen):
    return (
        sum(float(layer.cost[choice]) for layer, choice in zip(layers, chosen, strict=True)),
        sum(float(layer.damage[choice]) for layer, choice in zip(layers, chosen, strict=True)),
    )


@st.composite
def curves(draw):
    """A few layers with ascending costs and descending damage, convex or not."""
    layers = []
    for _ in range(draw(st.integers(1, 4))):
        count = draw(st.integers(1, 5))
        costs = np.cumsum(draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))).astype(float)
        steps = draw(st.lists(st.integers(0, 50), min_size=count, max_size=count))
        damage = np.cumsum(steps)[::-1].astype(float) - steps[0]
        layers.append(Choices(costs, damage))
    return layers


@given(curves(), st.integers(0, 100))
def test_within_the_limit_and_no_single_step_is_left(layers, share):
    low = sum(layer.cost[0] for layer in layers)
    high = sum(layer.cost[-1] for layer in layers)
    limit = low + (high - low) * share / 100
    chosen = allocate(layers, limit)
    cost, damage = totals(layers, chosen)
    assert cost <= limit
    for index, layer in enumerate(layers):
        for choice in range(len(layer.cost)):
            other = [*chosen[:index], choice, *chosen[index + 1 :]]
            more, worse = totals(layers, other)
            assert more > limit or worse >= damage


@given(curves(), st.floats(0.01, 50))
def test_the_least_damage_of_all_for_what_it_costs(layers, multiplier):
    """Everett: what is best for a multiplier is best for its own cost; so it is found where that is the limit."""
    best = [int((layer.damage + multiplier * layer.cost).argmin()) for layer in layers]
    limit, expected = totals(layers, best)
    _, damage = totals(layers, allocate(layers, limit))
    everything = itertools.product(*(range(len(layer.cost)) for layer in layers))
    least = min(worse for cost, worse in (totals(layers, chosen) for chosen in everything) if cost <= limit)
    assert least == pytest.approx(expected)
    assert damage == pytest.approx(expected)


def test_all_and_nothing():
    layers = [Choices(np.array([1.0, 5.0]), np.array([3.0, 0.0])), Choices(np.array([2.0]), np.array([1.0]))]
    assert allocate(layers, 7) == [1, 0]
    assert allocate(layers, 3) == [0, 0]
    with pytest.raises(ValueError, match="the cheapest choices of all layers cost 3, more than the limit of 2"):
        allocate(layers, 2)


def test_choices_that_are_none():
    with pytest.raises(ValueError, match="a cost and a damage for each choice"):
        Choices(np.zeros(3), np.zeros(2))


@given(curves(), st.integers(0, 100), st.sampled_from([1e-3, 1e3]))
def test_the_unit_of_the_costs_does_not_matter(layers, share, unit):
    low = sum(layer.cost[0] for layer in layers)
    high = sum(layer.cost[-1] for layer in layers)
    limit = low + (high - low) * share / 100 + 0.5
    scaled = [Choices(layer.cost * unit, layer.damage) for layer in layers]
    assert totals(layers, allocate(layers, limit)) == totals(layers, allocate(scaled, limit * unit))


@given(st.integers(1, 10**7), st.floats(1e-6, 1, exclude_max=True))
def test_the_largest_whole_cost_within_a_share(total, share):
    cost = largest_within(share, total)
    assert cost / total <= share < (cost + 1) / total


@given(st.integers(1, 10**7), st.data())
def test_a_share_of_whole_parts_allows_them(total, data):
    parts = data.draw(st.integers(0, total))
    assert largest_within(parts / total, total) == parts
