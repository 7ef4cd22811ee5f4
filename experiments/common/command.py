"""Commands with a config from ``conf/``, ``--help``, and errors in one line.

This is the only module that uses ``hydra.main``.
"""

from __future__ import annotations

import functools
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import hydra
import torch
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from experiments.common.command_errors import explain
from experiments.common.command_help import Command
from experiments.common.compose import CONF
from experiments.common.imports import import_modules
from experiments.common.kinds import Kind
from experiments.common.options import check_options, check_removals, with_new_keys
from shrinkml_env.progress import progress_shown

__all__ = ["command", "given_command"]

_GIVEN: ContextVar[str | None] = ContextVar("the command that is run", default=None)

FULL_ERROR = "HYDRA_FULL_ERROR"

STOPPED = 130
"""The exit status of a command that was stopped by Ctrl-C, as shells give it."""


class _Failed(BaseException):
    """Carries an error through Hydra, which would otherwise print it in its own format."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def command(
    config_name: str, folder: str = ".", **kinds: Kind
) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Return a decorator that turns a function of a config into a command: ``main()`` reads the command line.

    Before it calls the function, the command imports the modules of ``imports``, checks every option, and sets torch to
    one thread (two threads on two busy cores are far slower than one).

    Errors of the user's input end the program with exit status 2 and one line on stderr, and Ctrl-C with 130 and one
    line; with ``HYDRA_FULL_ERROR=1`` the traceback is shown. The function is available as ``main.__wrapped__``, and the
    kinds as ``main.kinds``.

    Args:
        config_name: Name of the config in ``conf/``.
        folder: The folder in ``conf/`` that contains the config and its groups.
        kinds: Option -> kind, for options that only this command has, or that have another kind in `OPTIONS`.
    """

    def decorate(function: Callable[[DictConfig], None]) -> Callable[[], None]:
        program = _program(function)

        @functools.wraps(function)
        def job(config: DictConfig) -> None:
            try:
                _require_values(config)
                import_modules(config.get("imports"))
                check_removals(config, _overrides(), kinds)
                check_options(config, kinds)
                torch.set_num_threads(1)
                with progress_shown(), _command_is(shlex.join(["python", "-m", program, *_overrides()])):
                    function(config)
            except Exception as error:
                # In a multirun, Hydra's launchers pass the errors of jobs on.
                if HydraConfig.get().mode is RunMode.RUN:
                    raise _Failed(error) from error
                raise

        run = hydra.main(version_base="1.3", config_path=str(CONF / folder), config_name=config_name)(job)

        @functools.wraps(function)
        def main() -> None:
            this = Command(CONF / folder, config_name, program, sys.modules[function.__module__].__doc__)
            # Hydra reads them from here.
            arguments = sys.argv[1:] = with_new_keys(sys.argv[1:], kinds)
            overrides = [argument for argument in arguments if not argument.startswith("-")]
            full = os.environ.get(FULL_ERROR) == "1"
            try:
                if {"-h", "--help"} & set(arguments):
                    print(this.help(overrides))
                    return
                _require_flags(arguments)
                with _errors_raised():
                    run()
                return
            except _Failed as failed:
                error = failed.error
            except KeyboardInterrupt:
                if full:
                    raise
                print("stopped: the same command goes on from here", file=sys.stderr)
                sys.exit(STOPPED)
            except Exception as raised:
                error = raised
            line = None if full else explain(error, this, overrides)
            if line is None:
                raise error
            print(line, file=sys.stderr)
            sys.exit(2)

        main.kinds = kinds  # type: ignore[attr-defined]
        return main

    return decorate


def _overrides() -> list[str]:
    """Return the options of the running job, as they were given."""
    return [str(override) for override in HydraConfig.get().overrides.task]


@contextmanager
def _command_is(line: str) -> Iterator[None]:
    token = _GIVEN.set(line)
    try:
        yield
    finally:
        _GIVEN.reset(token)


def given_command() -> str | None:
    """Return the command line of the running command, in a multirun that of the one run; None outside commands."""
    return _GIVEN.get()


def _program(function: Callable[[DictConfig], None]) -> str:
    """Return the module name of a command, for ``python -m NAME``."""
    specification = sys.modules[function.__module__].__spec__
    return function.__module__ if specification is None else specification.name


def _require_values(config: DictConfig) -> None:
    """Raise an error that names the first option without a value."""
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        # This raises Hydra's error for a missing value.
        OmegaConf.select(config, missing[0], throw_on_missing=True)


def _require_flags(arguments: list[str]) -> None:
    """Raise a ValueError if an argument looks like a flag but is not one of Hydra's."""
    _, unknown = get_args_parser().parse_known_args(arguments)
    if unknown:
        name, _, value = unknown[0].lstrip("-").partition("=")
        raise ValueError(f"{unknown[0]} is not a flag: give options as NAME=VALUE, here {name}={value or '...'}")


@contextmanager
def _errors_raised() -> Iterator[None]:
    """Make Hydra raise errors instead of printing them."""
    before = os.environ.get(FULL_ERROR)
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[FULL_ERROR]
        else:
            os.environ[FULL_ERROR] = before
