"""The embedded model, speech and default environment, as users get them."""

import functools
import importlib
import sys
import warnings

import gymnasium as gym
import jiwer
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from mo_gymnasium.wrappers import LinearReward
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

import shrinkml_env
from shrinkml_env import (
    EvaluationCache,
    Evaluator,
    compress,
    count_parameters,
    load_compressed,
    load_model,
    load_utterances,
    save_compressed,
)
from shrinkml_env.compression import SVD
from shrinkml_env.envs.registration import VARIANTS
from shrinkml_env.evaluation import recognise_all
from tests.helpers.processes import python
from tests.helpers.speech import SHIPPED_SPEECH

SUBSETS = {"proxy": "proxy-pool", "dev": "dev", "test": "test"}
FEW = {name: {"root": str(SHIPPED_SPEECH), "subset": subset, "limit": 4} for name, subset in SUBSETS.items()}


@pytest.fixture(scope="module")
def model():
    return load_model("las_small")


@pytest.fixture(scope="module")
def small(model):
    """Arguments of `gym.make` that change no type, shape or range: on 4 of the utterances, with finished factors."""
    return {"model": model, "factorisation": SVD(model), "proxy": FEW["proxy"]}


def test_size_and_file_format(model):
    assert 5e6 <= count_parameters(model) <= 12e6
    assert model.storage_dtype == torch.float16
    assert len(model.layers) == 11


@pytest.mark.slow
def test_word_error_rate_on_unseen_voices_and_sentences(model):
    utterances = load_utterances("test")
    hypotheses = recognise_all(model, utterances)
    references = [model.normalise(utterance.text) for utterance in utterances]
    error_rate = jiwer.wer(references, [hypothesis.text for hypothesis in hypotheses])
    # Below 2 % there would be little to lose, above 5 % little worth keeping.
    assert 0.02 <= error_rate <= 0.05
    assert not any(hypothesis.capped for hypothesis in hypotheses)


@pytest.mark.slow
def test_the_original_never_hits_its_token_limit(model):
    for name in ("proxy", "dev"):
        assert not any(hypothesis.capped for hypothesis in recognise_all(model, load_utterances(name)))


@pytest.mark.slow
def test_beam_search_is_no_worse_than_greedy(model):
    utterances = load_utterances("proxy")
    references = [model.normalise(utterance.text) for utterance in utterances]
    greedy = jiwer.wer(references, model.transcribe([utterance.waveform for utterance in utterances]))
    beam = load_model("las_small")
    beam.decoding = shrinkml_env.asr.Decoding(beam_size=4)
    assert jiwer.wer(references, beam.transcribe([u.waveform for u in utterances])) <= greedy + 0.005


@pytest.mark.slow
def test_factored_and_put_back_give_the_same_transcripts(model):
    """The compressed model's transcripts are those of the dense one with U @ V in place of each matrix."""
    waveforms = [utterance.waveform for utterance in load_utterances("dev")[:40]]
    ranks = {layer.name: max(1, layer.break_even // 2) for layer in model.layers}
    compressed = compress(model, ranks)
    dense = load_model("las_small")
    with torch.no_grad():
        for name, parameter in dense.named_parameters():
            owner, _, attribute = name.rpartition(".")
            parameter.copy_(getattr(compressed.get_submodule(owner), attribute))
    assert compressed.transcribe(waveforms) == dense.transcribe(waveforms)


@pytest.mark.slow
def test_the_file_is_smaller_and_remembers(model, tmp_path):
    ranks = {layer.name: max(1, layer.break_even // 4) for layer in model.layers}
    compressed = compress(model, ranks)
    save_compressed(model, tmp_path / "original")
    save_compressed(compressed, tmp_path / "compressed")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("original", "compressed")]
    assert sizes[1] / sizes[0] == pytest.approx(count_parameters(compressed) / count_parameters(model), abs=0.01)
    waveforms = [utterance.waveform for utterance in load_utterances("dev")[:10]]
    assert load_compressed(tmp_path / "compressed").transcribe(waveforms) == compressed.transcribe(waveforms)


SCALAR_IDS = [name for name, options in VARIANTS.items() if options.get("reward") != "vector"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SCALAR_IDS)
def test_both_check_envs_without_a_warning(name, small):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(name, **small)
        gymnasium_check_env(env.unwrapped, skip_render_check=True)
        sb3_check_env(env)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCALAR_IDS)
def test_vector_environments(name, small):
    for mode in ("sync", "async"):
        envs = gym.make_vec(name, num_envs=2, vectorization_mode=mode, **small)
        observations, _ = envs.reset(seed=0)
        assert observations in envs.observation_space
        envs.step(envs.action_space.sample())
        envs.close()
    for vectorise in (DummyVecEnv, SubprocVecEnv):
        envs = vectorise([functools.partial(gym.make, f"shrinkml_env:{name}", **small)] * 2)
        envs.reset()
        envs.step([envs.action_space.sample() for _ in range(2)])
        envs.close()


def test_the_multi_objective_environment(small):
    assert set(VARIANTS) - set(SCALAR_IDS) == {"ShrinkMLMultiObjective-v0"}
    env = gym.make("ShrinkMLMultiObjective-v0", **small)
    with pytest.warns(UserWarning, match=r"reward returned by `step\(\)` must be a float"):
        gymnasium_check_env(env.unwrapped, skip_render_check=True)
    sb3_check_env(LinearReward(env, weight=np.array([1.0, 0.1])))


_EPISODE = """
import gymnasium as gym
env = gym.make("shrinkml_env:ShrinkML-v0", proxy="proxy-small", cache=None)
env.reset(seed=3)
env.action_space.seed(3)
terminated = False
while not terminated:
    _, reward, terminated, _, info = env.step(env.action_space.sample())
print(repr(reward), info["wer"], info["size_ratio"], info["ranks"])
"""


@pytest.mark.slow
def test_the_same_numbers_in_another_process(capsys):
    exec(_EPISODE, {})
    other = python("-c", _EPISODE).stdout
    assert other == capsys.readouterr().out != ""


@pytest.fixture
def run_experiment(monkeypatch, capsys):
    """``python -m experiments.NAME ARGUMENTS`` in this process; returns what it prints."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        capsys.readouterr()
        importlib.import_module(f"experiments.{name}").main()
        return capsys.readouterr().out

    return run


def typed(chosen):
    """A set as it is typed."""
    return "{" + ", ".join(f"{option}: {value}" for option, value in chosen.items()) + "}"


@pytest.mark.slow
def test_search_and_validation_from_the_command_line(tmp_path, run_experiment):
    sets = [f"{name}={typed(few)}" for name, few in FEW.items()]
    run_experiment(
        "search",
        "-m",
        "agent=random,uniform",
        "budget=2",
        "finalists=1",
        f"outputs={tmp_path}",
        f"hydra.sweep.dir={tmp_path}",
        *sets,
    )
    directories = sorted(path.parent for path in tmp_path.glob("*/best.json"))
    assert [directory.name[:8] for directory in directories] == ["random-l", "uniform-"]
    assert "sizes and word errors were measured again" in run_experiment("validate", f"run={directories[0]}")
    assert "and are those recorded" in run_experiment("validate", f"ranks={directories[0] / 'best.json'}")
    summary = run_experiment("summary", f"outputs={tmp_path}").splitlines()
    assert [line.split()[0] for line in summary[2:]] == ["original", *(directory.name for directory in directories)]


@pytest.mark.slow
def test_sensitivity_from_the_command_line(tmp_path, run_experiment):
    output = run_experiment(
        "sensitivity", "search_space.count=1", f"proxy={typed(FEW['proxy'])}", f"outputs={tmp_path}"
    )
    assert "search space formed from it:" in output
    (path,) = tmp_path.glob("*/sensitivity.json")
    assert (path.parent / "sensitivity.png").exists()
    env = gym.make("ShrinkML-v0", search_space={"name": "sensitivity", "path": str(path), "fatal": 2.0})
    assert env.unwrapped.problem.search_space.size > 1


@pytest.mark.slow
# So few configurations may make the same errors on so few utterances, and then there is no correlation.
@pytest.mark.filterwarnings("ignore")
def test_proxy_selection_from_the_command_line(tmp_path, run_experiment, monkeypatch):
    monkeypatch.setattr("experiments.select_proxy.RESAMPLES", 50)
    sets = (f"pool={typed(FEW['proxy'])}", f"dev={typed(FEW['dev'])}", "sizes=[2,3]", "configurations=3")
    run_experiment("select_proxy", *sets, f"outputs={tmp_path}")
    (ids,) = tmp_path.glob("*/ranking-3.txt")
    assert len(load_utterances({"root": SHIPPED_SPEECH, "subset": "proxy-pool", "ids": ids})) == 3
    assert (ids.parent / "fidelity.png").exists()


@pytest.mark.slow
def test_the_cache_from_the_command_line(tmp_path, run_experiment):
    evaluator = Evaluator(load_model("las_small"), load_utterances("proxy")[:2], cache=EvaluationCache(tmp_path / "c"))
    evaluator.evaluate({"decoder.output": 10})
    shown = run_experiment("cache", f"path={tmp_path / 'c'}")
    assert "2 utterances, svd" in shown
    assert "1 measurements" in shown
    exported = run_experiment("cache", "command=export", f"path={tmp_path / 'c'}", f"file={tmp_path / 'all.csv'}")
    assert exported.startswith("1 measurements")
    assert "1 measurements deleted" in run_experiment("cache", "command=prune", "subject=las", f"path={tmp_path / 'c'}")


def test_nothing_is_calibrated_on_what_a_search_is_measured_on():
    large = {utterance.id for utterance in load_utterances("calibration-large")}
    assert len(large) == 324
    assert {utterance.id for utterance in load_utterances("calibration")} < large
    for name in ("proxy", "proxy-small", "dev", "test"):
        assert not large & {utterance.id for utterance in load_utterances(name)}, name


@pytest.fixture(scope="module")
def small_v1(model):
    """As `small`, with a calibration that is soon heard."""
    return {"model": model, "calibration": FEW["dev"], "proxy": FEW["proxy"]}


@pytest.mark.slow
def test_version_1(small_v1):
    """Zeros are the closed form at the common level, raised to the size; every episode ends just below the size."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make("ShrinkML-v1", size=0.5, **small_v1)
        gymnasium_check_env(env.unwrapped, skip_render_check=True)
        sb3_check_env(env)
    problem = env.unwrapped.problem
    assert (problem.size_limit, problem.evaluator.factorisation_name) == (0.5, "activation_aware in pivoting form")
    assert all(len(layer.matrices) == 1 for layer in problem.layers)
    assert {matrix.form for layer in problem.layers for matrix in layer.matrices} == {"pivoting"}
    ends = []
    for sign in (0.0, 1.0, -1.0):
        env.reset()
        for index in range(len(problem.layers)):
            action = np.array([sign * (-1) ** index], np.float32)
            _, reward, terminated, _, info = env.step(action)
        assert terminated
        assert info["feasible"]
        assert 0.495 < info["size_ratio"] <= 0.5
        assert reward == -info["divergence"] < 0
        ends.append(info)
    middle = problem.search_space.at_level(env.unwrapped.action.common)
    assert all(ends[0]["ranks"][name] >= rank for name, rank in middle.items())
    # Shifts in opposite directions do harm.
    assert ends[0]["divergence"] < min(ends[1]["divergence"], ends[2]["divergence"])
