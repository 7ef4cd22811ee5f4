"""The same sweep with every launcher, as a user types it: nothing but the processes may differ."""

import importlib.metadata
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from shrinkml_env import EvaluationCache
from tests.helpers.processes import python
from tests.helpers.watched import WatchedCTC
from tests.helpers.workplace import make_workplace

ROOT = Path(__file__).parents[2]
SWEEP = ("agent=uniform", "seed=0,1")
TINY = ("budget=2", "finalists=1")
WATCHED = (
    "imports=[tests.helpers.watched]",
    "reward=custom",
    "reward._target_=tests.helpers.watched.WatchedReward",
)
NOTES = ("recognised.txt", "processes.txt")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Model and sets that all sweeps share, as overrides."""
    return make_workplace(tmp_path_factory.mktemp("parts"), WatchedCTC())


def environment(folder, **settings):
    """For programs that keep what they keep at home in a folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "HOME": str(folder), **settings}


def from_scratch(*arguments, cwd, env):
    """As `python`, for launchers that do not work in a forked process."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600, check=False)


def sweep(folder, parts, *overrides, start=from_scratch, **settings):
    """Give the command in a folder; outputs and cache lie there. Returns the lines of both notes."""
    (folder / "cache").mkdir(parents=True)
    command = ["-m", "experiments.search", "--multirun", *overrides, *SWEEP, *TINY, *WATCHED, *parts]
    # The thread of each run is the program's own doing.
    variables = environment(folder, SHRINKML_CACHE="cache/evaluations.sqlite", OMP_NUM_THREADS="2", **settings)
    run = start(*command, cwd=folder, env=variables)
    assert run.returncode == 0, run.stdout + run.stderr
    recognised, processes = ((folder / "cache" / name).read_text().splitlines() for name in NOTES)
    return recognised, {tuple(line.split()) for line in processes}


@pytest.fixture(scope="module")
def reference(tmp_path_factory, parts):
    """The sweep without a launcher: one run after the other in one process."""
    folder = tmp_path_factory.mktemp("reference") / "sweep"
    _, processes = sweep(folder, parts, start=python)
    assert len(processes) == 1
    return folder


def results(folder):
    """Run -> what it found and how."""
    return {
        run.name: [(run / name).read_bytes() for name in ("best.json", "evaluations.jsonl")]
        for run in (folder / "outputs" / "search").glob("*-custom-*")
    }


def require(package):
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed: pip install -c constraints.txt -e .[sweeps]")


def compare(folder, reference, recognised, processes):
    """A launcher changes nothing but the processes."""
    expected = results(reference)
    assert [name.rpartition("-")[0] for name in sorted(expected)] == [f"uniform-custom-{seed}" for seed in (0, 1)]
    assert results(folder) == expected
    # One cache for all: the two runs, at the same time, want the same configurations.
    cache = EvaluationCache(folder / "cache" / "evaluations.sqlite")
    # Each run tries out the model and its factors that lose nothing on a few utterances, and caches nothing of it.
    times = Counter(recognised)
    *once, first, second = sorted(times.values())
    assert first == second == len(expected)
    # The reports recognise what has changed on test besides, with both models of each run.
    assert once.count(1) >= len(cache)
    assert sum(once) <= len(cache) + 2 * len(expected)
    assert len(cache) == len(EvaluationCache(reference / "cache" / "evaluations.sqlite"))
    assert len(processes) > 1
    assert {threads for _, threads in processes} == {"1"}


@pytest.mark.slow
def test_joblib(reference, parts, tmp_path):
    require("hydra-joblib-launcher")
    compare(tmp_path, reference, *sweep(tmp_path, parts, "launcher=joblib", "hydra.launcher.n_jobs=2"))


@pytest.mark.slow
def test_submitit_on_this_machine(reference, parts, tmp_path):
    require("hydra-submitit-launcher")
    compare(tmp_path, reference, *sweep(tmp_path, parts, "launcher=submitit_local", start=python))


def test_slurm_jobs_have_one_core_and_come_back():
    """The plugin refuses settings that it does not know; what it does with them needs a Slurm cluster."""
    require("hydra-submitit-launcher")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        overrides = ["launcher=slurm", "hydra.launcher.partition=cpu"]
        launcher = compose("search", overrides, return_hydra_config=True).hydra.launcher
    assert launcher._target_.endswith(".SlurmLauncher")
    assert (launcher.partition, launcher.cpus_per_task) == ("cpu", 1)
    assert launcher.max_num_timeout > 0


@pytest.fixture
def ray_cluster(tmp_path):
    """A cluster of two cores, started elsewhere and without the sweep's environment. What it takes to join it."""
    require("hydra-ray-launcher")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={port}", "--num-cpus=2"]
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    variables = environment(tmp_path, **access)
    del variables["SHRINKML_CACHE"]
    # In a folder of its own, whose name must be short, or other programs on this machine would join this cluster.
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as files,
        subprocess.Popen(
            [*command, f"--temp-dir={files}", "--include-dashboard=false", "--block"],
            cwd=elsewhere,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as cluster,
    ):
        assert cluster.stdout is not None
        printed = ""
        while "Ray runtime started" not in printed:
            line = cluster.stdout.readline()
            assert line, printed
            printed += line
        yield {"RAY_ADDRESS": f"127.0.0.1:{port}", **access}
        cluster.terminate()


@pytest.mark.slow
def test_ray(reference, parts, tmp_path, ray_cluster):
    folder = tmp_path / "here"
    compare(folder, reference, *sweep(folder, parts, "launcher=ray", **ray_cluster))
