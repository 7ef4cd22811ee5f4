"""Programs and workers in processes that need not import the library first, which takes seconds.

They are forked from a server that has imported it and done nothing else (multiprocessing's forkserver).
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from multiprocessing.forkserver import _forkserver, ensure_running
from pathlib import Path

from torch.distributed import TCPStore

TIMEOUT = 600
"""Seconds after which a program is killed."""

PRELOADED = [
    "shrinkml_env",
    *(f"experiments.common.{name}" for name in ("agent", "command", "search_report")),
    "torch._dynamo",  # Which torch imports when the first optimizer is made.
]
FORKED = get_context("forkserver")
FORKED.set_forkserver_preload(PRELOADED)


def forked_instead(method: str | None = None) -> BaseContext:
    """Return what `multiprocessing.get_context` does, but for "spawn" that of processes which are forked here."""
    return FORKED if method == "spawn" else get_context(method)


def python(
    *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS`, where the arguments are `-c CODE ...`, `-m MODULE ...` or `FILE ...`, and wait for it.

    Functions that are registered with atexit are called at its end. Programs that start processes through joblib or Ray
    hang here: run them by `subprocess`.

    Args:
        arguments: As they are typed.
        cwd: Folder that it runs in; None for this process' own.
        env: All of its environment variables; None for this process' own. Those that Python itself reads at its start,
            such as PYTHONHASHSEED, have no effect, and none of them reaches the library's workers.
    """
    (done,) = _run_all(arguments, cwd, [dict(env or os.environ)])
    return done


def training(*arguments: str | Path, processes: int = 2) -> list[subprocess.CompletedProcess[str]]:
    """Run a program in several processes that train one model, and wait for them.

    They get the variables that torchrun gives, which itself would start processes from scratch.

    Args:
        arguments: As those of `python`.
        processes: Their number.

    Returns:
        What each did, in the order of their ranks.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_RUN_ID": "tests",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    return _run_all(arguments, None, [{**os.environ, **common, **rank} for rank in ranks])


def _run_all(
    arguments: Sequence[str | Path], cwd: Path | None, environments: Sequence[dict[str, str]]
) -> list[subprocess.CompletedProcess[str]]:
    """Run one program in each of some environments at once."""
    typed = [str(argument) for argument in arguments]
    ensure_running()
    server = _forkserver._forkserver_address
    with tempfile.TemporaryDirectory() as folder:
        outputs = [
            [Path(folder) / f"{name}-{number}" for name in ("stdout", "stderr")] for number in range(len(environments))
        ]
        programs = [
            FORKED.Process(target=_run, args=(typed, cwd or Path.cwd(), environment, paths, server))
            for environment, paths in zip(environments, outputs, strict=True)
        ]
        for program in programs:
            program.start()
        end = time.monotonic() + TIMEOUT
        for program in programs:
            program.join(max(0.0, end - time.monotonic()))
            program.kill()
            program.join()
        return [
            subprocess.CompletedProcess(typed, program.exitcode, *(path.read_text() for path in paths))
            for program, paths in zip(programs, outputs, strict=True)
        ]


def _run(arguments: list[str], cwd: Path, env: dict[str, str], outputs: list[Path], server: str) -> None:
    # The program has Linux' way of starting processes; those that it spawns come from the same server.
    multiprocessing.set_start_method("fork", force=True)
    multiprocessing.get_context = forked_instead
    _forkserver._forkserver_address, _forkserver.ensure_running = server, lambda: None
    for descriptor, path in zip((1, 2), outputs, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    kind, *rest = arguments
    sys.path.insert(0, str(Path(kind).parent) if kind not in ("-c", "-m") else str(cwd))
    try:
        if kind == "-c":
            sys.argv = ["-c", *rest[1:]]
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        elif kind == "-m":
            sys.argv = rest
            sys.modules.pop(rest[0], None)  # The parent's main module is imported on the way here.
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            runpy.run_path(kind, run_name="__main__")
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    finally:
        atexit._run_exitfuncs()  # As at the end of any program, but not of multiprocessing's.
