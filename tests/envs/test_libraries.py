"""Libraries that know nothing of ShrinkML play its environments; each test runs where its library is installed."""

import numpy as np
import pytest

import shrinkml_env  # noqa: F401 - registers the ids
from shrinkml_env import Ledger
from shrinkml_env.envs.registration import make_tabular_env, make_vector_tabular_env
from shrinkml_env.envs.vector import VectorShrinkEnv
from tests.helpers.fake_evaluator import make_fake_env
from tests.helpers.fake_table import TABLE

STEPS = {"single": 5, "vector": 5, "tabular": 3, "vector tabular": 3}
"""Environment -> steps of an episode."""


def make(kind, action="discrete"):
    if kind == "single":
        return make_fake_env(action, ledger=Ledger())
    if kind == "vector":
        return VectorShrinkEnv(make_fake_env(action, ledger=Ledger()), 2)
    if kind == "tabular":
        return make_tabular_env(action, table=TABLE)
    return make_vector_tabular_env(2, action=action, table=TABLE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", STEPS)
def test_torchrl(kind):
    envs = pytest.importorskip(
        "torchrl.envs", reason="torchrl is not installed: pip install -c constraints.txt torchrl"
    )
    env = make(kind, "continuous")
    played = envs.GymWrapper(env).rollout(3 * STEPS[kind], break_when_any_done=False)
    rewards, done = (played["next", name].reshape(-1, 3 * STEPS[kind]) for name in ("reward", "done"))
    assert done.shape == (env.num_envs if "vector" in kind else 1, 3 * STEPS[kind])
    assert (done.nonzero()[:, 1] % STEPS[kind] == STEPS[kind] - 1).all()
    assert done.sum() == 3 * len(done)
    # Played by a random policy: every episode's reward is that of one of the configurations measured.
    if kind == "single":
        assert set(rewards[done].tolist()) == set(np.float32([trial.reward for trial in env.problem.history]).tolist())
    assert (rewards[~done] == 0).all()
