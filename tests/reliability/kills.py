"""Kill commands at random moments, and check that they resume.

``python -m tests.reliability.kills [KILLS]`` kills a hundred times by default. Searches (alone, with workers, three at
once), a fine-tuning, `experiments.compress` and `experiments.build.table` are killed by SIGKILL and started again,
repeatedly. Their final outputs must equal those of an uninterrupted run, byte for byte, and no process may outlive a
killed parent for long.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from tqdm import tqdm

from benchmarks.report import Section
from experiments.common.compose import compose_config
from shrinkml_env import compress, save_compressed
from shrinkml_env.compression import round_to_storage
from tests.helpers.models import TinyCTC
from tests.helpers.speech import make_corpus, make_learner
from tests.helpers.workplace import make_speech, make_workplace

__all__ = ["TASKS", "Task", "kill_repeatedly", "outcome"]

LONGEST = 20.0
"""The longest time that a process may outlive a killed parent, seconds."""

TIMED = ("tensorboard", "agent", "agent.zip", "config.yaml", "search.yaml", "checkpoint.pt", "report.html")
"""Files that contain times or the path of the outputs, which are not compared."""

CONTEXT = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Task:
    """One or several processes that run the same command at once.

    Attributes:
        name: Name of the task in messages.
        module: Module of the command.
        options: Options of each process, without ``outputs``.
    """

    name: str
    module: str
    options: tuple[tuple[str, ...], ...]


def searches(folder: Path) -> list[str]:
    """Make a small model and speech for a search, and return its options."""
    options = ["budget=24", "finalists=2", "imports=[tests.helpers.models]"]
    return [*make_workplace(folder, TinyCTC()), *options]


def search(folder: Path) -> Task:
    """Return one search in one process."""
    return Task("search", "experiments.search", ((*searches(folder), "agent=random"),))


def search_with_workers(folder: Path) -> Task:
    """Return one search with two workers."""
    agent = (
        "agent=ppo",
        "agent.n_steps=8",
        "agent.batch_size=8",
        "agent.n_epochs=1",
        "num_envs=2",
        "workers=2",
        "budget=8",
    )
    return Task("search with workers", "experiments.search", ((*searches(folder), *agent),))


def three_searches(folder: Path) -> Task:
    """Return three searches that run at once and share a cache."""
    options = (*searches(folder), "agent=random")
    return Task("three searches at once", "experiments.search", tuple((*options, f"seed={seed}") for seed in range(3)))


def finetuning(folder: Path) -> Task:
    """Return a fine-tuning of a small model, with a checkpoint after each epoch."""
    corpus = make_corpus(folder)
    model = make_learner(corpus).eval()
    round_to_storage(model)
    save_compressed(model, folder / "original")
    save_compressed(compress(model, {"encoder.0": 5, "decoder.lstm": 4}), folder / "small")
    speech = f"{{root: {folder}, subset: train}}"
    sets = tuple(f"data.{name}={speech}" for name in ("train", "dev", "test"))
    settings = ("training.epochs=12", "training.batch_seconds=2.0")
    models = (f"original={folder / 'original'}", f"seed_model={folder / 'small'}")
    return Task("fine-tuning", "experiments.finetune", (("data=synthetic", *models, *sets, *settings),))


def compressing(folder: Path) -> Task:
    """Return a run of `experiments.compress`."""
    speech = make_speech(folder, TinyCTC())
    options = ("target_size=0.6", "budget=12", "imports=[tests.helpers.models]")
    return Task("compress", "experiments.compress", ((f"model={folder / 'model'}", f"data={speech}", *options),))


def tabulating(folder: Path) -> Task:
    """Return the making of a table of 16 configurations."""
    sets = make_workplace(folder, TinyCTC())
    return Task("build.table", "tests.reliability.kills", ((*sets, "best=2", "random=2", "batch=2"),))


TASKS: tuple[Callable[[Path], Task], ...] = (
    search,
    search_with_workers,
    three_searches,
    finetuning,
    compressing,
    tabulating,
)


def make_table(options: Sequence[str], folder: Path) -> None:
    """Run `experiments.build.table` with two blocks of a small model."""
    from experiments.build.table import make

    *options, _ = options  # without `outputs`
    config = compose_config("table", [*options, f"output={folder / 'table.npz'}"])
    config.blocks = {name: {"layers": [name], "ranks": [2, 5, 8]} for name in ("gru", "hidden")}
    folder.mkdir(parents=True, exist_ok=True)
    make(config).save(config.output)


def begin(module: str, options: Sequence[str], folder: Path) -> None:
    """Run a command in a process; it keeps all files in a folder."""
    os.setsid()
    with (folder / "log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ.update(SHRINKML_CACHE=str(folder / "cache.sqlite"), OMP_NUM_THREADS="1")
    os.chdir(folder)
    arguments = [*options, f"outputs={folder / 'outputs'}"]
    if module == "tests.reliability.kills":
        importlib.import_module("tests.helpers.models")
        make_table(arguments, folder / "outputs")
    else:
        sys.argv = [module, *arguments]
        importlib.import_module(module).main()


def start(task: Task, folder: Path) -> list[BaseProcess]:
    """Start the processes of a task."""
    folder.mkdir(parents=True, exist_ok=True)
    processes: list[BaseProcess] = [
        CONTEXT.Process(target=begin, args=(task.module, options, folder)) for options in task.options
    ]
    for process in processes:
        process.start()
    return processes


def finish(task: Task, folder: Path) -> None:
    """Run a task to its end.

    Raises:
        RuntimeError: The task failed.
    """
    for process in start(task, folder):
        process.join()
        if process.exitcode:
            raise RuntimeError(
                f"{task.name} ended with status {process.exitcode}: {(folder / 'log').read_text()[-4000:]}"
            )


def kill(processes: Sequence[BaseProcess]) -> float:
    """Kill processes, and return the seconds for which other processes of their sessions outlive them."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid or 0, signal.SIGKILL)
    for process in processes:
        process.join()
    killed = time.monotonic()
    sessions = {process.pid for process in processes}
    while members(sessions) and time.monotonic() - killed < 2 * LONGEST:
        time.sleep(0.05)
    return time.monotonic() - killed


def members(sessions: set[int | None]) -> list[int]:
    """Return the ids of the processes in some sessions, without zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # PID (NAME) STATE PARENT GROUP SESSION ...; the name may contain any characters.
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) in sessions and state != "Z":
                    found.append(int(entry.name))
    return found


def outcome(folder: Path) -> dict[str, bytes]:
    """Return the outputs of runs, path -> content, without `TIMED` files, locks, and times in records."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and path.suffix != ".lock" and not {*TIMED} & {*name.parts}:
            content = path.read_bytes().replace(str(folder).encode(), b"OUTPUTS")
            found[str(name)] = json.dumps(_untimed(json.loads(content))).encode() if name.suffix == ".json" else content
    return found


def _untimed(content: object) -> object:
    if isinstance(content, Mapping):
        return {
            key: _untimed(value) for key, value in content.items() if key not in ("seconds", "cpu_seconds", "outputs")
        }
    return [_untimed(value) for value in content] if isinstance(content, list) else content


@dataclass(frozen=True)
class KillReport:
    """The result of killing a task repeatedly.

    Attributes:
        kills: Number of kills of running processes.
        ends: Number of runs that were killed and finished with the outputs of an uninterrupted run.
        outlived: The longest time that a process outlived its killed parent, seconds.
    """

    kills: int
    ends: int
    outlived: float


def kill_repeatedly(make: Callable[[Path], Task], kills: int, chance: random.Random, folder: Path) -> KillReport:
    """Kill a task repeatedly, and compare its final outputs with those of an uninterrupted run.

    Args:
        make: Prepares a folder for the task, and returns the task.
        kills: Number of kills.
        chance: Source of random moments.
        folder: An empty folder.

    Raises:
        AssertionError: Outputs differ, or a process outlived its parent for more than `LONGEST` seconds.
        RuntimeError: The task failed.
    """
    (folder / "parts").mkdir()
    task = make(folder / "parts")
    begun = time.monotonic()
    finish(task, folder / "unbroken")
    length = time.monotonic() - begun
    expected = outcome(folder / "unbroken" / "outputs")
    assert expected
    hits, ends, outlived, broken = 0, 0, 0.0, 0
    while hits < kills or broken:
        place = folder / f"run-{ends}"
        begun = time.monotonic()
        moment = begun + chance.uniform(0.05, 1.0) * length if hits < kills else math.inf
        processes = start(task, place)
        for process in processes:
            process.join(None if math.isinf(moment) else max(0.0, moment - time.monotonic()))
        running = [process for process in processes if process.is_alive()]
        if running:
            outlived = max(outlived, kill(running))
            hits, broken = hits + 1, broken + 1
            assert outlived <= LONGEST, f"{task.name}: a process outlived its killed parent by {outlived:.1f} s"
            continue
        # The first run takes longer than the others, because it loads modules from disk.
        length = min(length, time.monotonic() - begun)
        finish(task, place)  # running the finished task again must not change its outputs
        found = outcome(place / "outputs")
        different = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        assert not different, f"{task.name}: after {broken} kills {', '.join(sorted(different))} differ: {place}"
        ends, broken = ends + 1, 0
        shutil.rmtree(place)
    return KillReport(hits, ends, outlived)


def measure(kills: int = 100, seed: int = 0) -> Section:
    """Kill all tasks, each equally often."""
    rows = []
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name, tqdm(TASKS, unit="task") as bar:
        for number, make in enumerate(bar):
            folder = Path(name) / make.__name__
            folder.mkdir()
            share = kills * (number + 1) // len(TASKS) - kills * number // len(TASKS)
            found = kill_repeatedly(make, share, chance, folder)
            label = make.__name__.replace("_", " ")
            rows.append((label, str(found.kills), str(found.ends), f"{found.outlived:.1f} s"))
    head = ("killed", "kills", "ends, all equal to an unbroken run's", "a process outlived its parent by at most")
    return Section("Kills", f"{kills} times SIGKILL at random moments.", {"kills": (head, rows)})


CONTEXT.set_forkserver_preload(
    ["experiments.search", "experiments.finetune", "experiments.compress", "tests.helpers.models"]
)

if __name__ == "__main__":
    measure(*map(int, sys.argv[1:])).print()
