"""The page that follows an episode shows what the environment does."""

import re

import pytest

from tests.helpers.pages import ROOT, blocks

pytestmark = pytest.mark.docs

PAGE = "docs/episode.md"
ROW = re.compile(r"\| (\d+) \| ([\d.]+) \| (\d+)(?: \(dense\))? \| (\d+)(?: \(dense\))? \| (\d+)(?: \(dense\))? \|")
SHOWN = (
    "encoder.layers.0.lstm.forward_lstm+backward_lstm.weight_ih_l0",
    "encoder.layers.5.lstm.forward_lstm+backward_lstm.weight_ih_l0",
    "decoder.output.weight",
)


@pytest.mark.slow
def test_the_episode_is_as_described():
    names = {}
    for code in blocks(PAGE):
        exec(code, names)
    problem, space = names["problem"], names["space"]
    rows = ROW.findall((ROOT / PAGE).read_text())
    assert [int(level) for level, *_ in rows] == [0, 12, 24, 25, 36, 48]
    for level, size, *ranks in rows:
        at_level = space.at_level(int(level))
        assert size == f"{problem.size(at_level):.3f}"
        assert [int(rank) for rank in ranks] == [at_level[name] for name in SHOWN]
    env = names["env"]
    env.reset()
    for action in [1.0, *[0.0] * 23]:
        _, reward, *_ = env.step(env.action_space.low * 0 + action)
    assert round(reward, 3) == -0.042
