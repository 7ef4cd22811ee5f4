"""Kills at random moments: ``python -m benchmarks.kills [KILLS]``, by default 100.

Searches (alone, with workers, three at once), a fine-tuning, `experiments.compress` and `experiments.build.table` are
killed by SIGKILL, started again, killed again. What they end with must be what an unbroken run ends with, byte for
byte, and no process may outlive a killed parent for long.
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

__all__ = ["TASKS", "Task", "endured", "outcome"]

LONGEST = 20.0
"""Seconds for which a process may outlive a parent that was killed."""

TIMED = ("tensorboard", "agent", "agent.zip", "config.yaml", "search.yaml", "checkpoint.pt")
"""Files that hold times of the clock, or where the outputs lie."""

CONTEXT = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Task:
    """Processes that run at once, each a command.

    Attributes:
        name: For people.
        module: The command's module.
        options: For each process its options besides the outputs.
    """

    name: str
    module: str
    options: tuple[tuple[str, ...], ...]


def searches(folder: Path) -> list[str]:
    """Make what a search on a small model needs; returns options."""
    options = ["budget=24", "finalists=2", "imports=[tests.helpers.models]"]
    return [*make_workplace(folder, TinyCTC()), *options]


def search(folder: Path) -> Task:
    """One search in one process."""
    return Task("search", "experiments.search", ((*searches(folder), "agent=random"),))


def search_with_workers(folder: Path) -> Task:
    """One search with two workers."""
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
    """Three searches at once that share their measurements."""
    options = (*searches(folder), "agent=random")
    return Task("three searches at once", "experiments.search", tuple((*options, f"seed={seed}") for seed in range(3)))


def finetuning(folder: Path) -> Task:
    """A fine-tuning of a small model, with a checkpoint after each epoch."""
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
    """The engineer's command."""
    speech = make_speech(folder, TinyCTC())
    options = ("target_size=0.6", "budget=12", "imports=[tests.helpers.models]")
    return Task("compress", "experiments.compress", ((f"model={folder / 'model'}", f"data={speech}", *options),))


def tabulating(folder: Path) -> Task:
    """A table of 16 configurations."""
    sets = make_workplace(folder, TinyCTC())
    return Task("build.table", "benchmarks.kills", ((*sets, "best=2", "random=2", "batch=2"),))


TASKS: tuple[Callable[[Path], Task], ...] = (
    search,
    search_with_workers,
    three_searches,
    finetuning,
    compressing,
    tabulating,
)


def make_table(options: Sequence[str], folder: Path) -> None:
    """Do what `experiments.build.table` does, with two blocks of a small model."""
    from experiments.build.table import make

    *options, _ = options  # The outputs.
    config = compose_config("table", [*options, f"output={folder / 'table.npz'}"])
    config.blocks = {name: {"layers": [name], "ranks": [2, 5, 8]} for name in ("gru", "hidden")}
    folder.mkdir(parents=True, exist_ok=True)
    make(config).save(config.output)


def begin(module: str, options: Sequence[str], folder: Path) -> None:
    """Be one process: run a command that keeps everything in a folder."""
    os.setsid()
    with (folder / "log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ.update(SHRINKML_CACHE=str(folder / "cache.sqlite"), OMP_NUM_THREADS="1")
    os.chdir(folder)
    arguments = [*options, f"outputs={folder / 'outputs'}"]
    if module == "benchmarks.kills":
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
    """Let a task run to its end.

    Raises:
        RuntimeError: It failed.
    """
    for process in start(task, folder):
        process.join()
        if process.exitcode:
            raise RuntimeError(
                f"{task.name} ended with status {process.exitcode}: {(folder / 'log').read_text()[-4000:]}"
            )


def kill(processes: Sequence[BaseProcess]) -> float:
    """Kill processes, and return for how many seconds others of their sessions outlive them."""
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
    """Return the processes of some sessions, but for those that have ended and wait for their parent."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # PID (NAME) STATE PARENT GROUP SESSION ...; a name may hold anything.
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) in sessions and state != "Z":
                    found.append(int(entry.name))
    return found


def outcome(folder: Path) -> dict[str, bytes]:
    """Return path -> content of all that runs leave but the `TIMED` files, locks, and seconds in records."""
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
class Endured:
    """What kills have done to a task.

    Attributes:
        kills: Kills that have met a running process.
        ends: Runs that ended after kills, each with the outcome of the unbroken one.
        outlived: The longest that a process outlived its killed parent, seconds.
    """

    kills: int
    ends: int
    outlived: float


def endured(make: Callable[[Path], Task], kills: int, chance: random.Random, folder: Path) -> Endured:
    """Kill a task so often, and compare what it ends with.

    Args:
        make: Makes what the task needs in a folder, and the task.
        kills: How often.
        chance: Draws the moments.
        folder: An empty one.

    Raises:
        AssertionError: An outcome differs, or a process outlived its parent for more than `LONGEST` seconds.
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
        # The first run takes longer than the others: it reads modules that they find in memory.
        length = min(length, time.monotonic() - begun)
        finish(task, place)  # Once more, which changes nothing.
        found = outcome(place / "outputs")
        different = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        assert not different, f"{task.name}: after {broken} kills {', '.join(sorted(different))} differ: {place}"
        ends, broken = ends + 1, 0
        shutil.rmtree(place)
    return Endured(hits, ends, outlived)


def measure(kills: int = 100, seed: int = 0) -> Section:
    """Kill every task equally often."""
    rows = []
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name, tqdm(TASKS, unit="task") as bar:
        for number, make in enumerate(bar):
            folder = Path(name) / make.__name__
            folder.mkdir()
            share = kills * (number + 1) // len(TASKS) - kills * number // len(TASKS)
            found = endured(make, share, chance, folder)
            label = make.__name__.replace("_", " ")
            rows.append((label, str(found.kills), str(found.ends), f"{found.outlived:.1f} s"))
    head = ("killed", "kills", "ends, all equal to an unbroken run's", "a process outlived its parent by at most")
    return Section("Kills", f"{kills} times SIGKILL at random moments.", {"kills": (head, rows)})


CONTEXT.set_forkserver_preload(
    ["experiments.search", "experiments.finetune", "experiments.compress", "tests.helpers.models"]
)

if __name__ == "__main__":
    measure(*map(int, sys.argv[1:])).print()
