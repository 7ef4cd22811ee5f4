"""Explanations of command-line errors: one line that names the option and the remedy."""

from __future__ import annotations

import dis
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from hydra.errors import (
    CompactHydraException,
    ConfigCompositionException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException

from experiments.common.command_help import Command
from experiments.common.compose import CONF
from experiments.common.options import nearest

__all__ = ["explain", "given_by"]

ROOT = Path(__file__).parents[2]
OURS = ("shrinkml_env", "agents", "experiments")


def explain(error: BaseException, command: Command, overrides: list[str]) -> str | None:
    """Return the line that explains an error to the user; None if the error is not due to the user's input.

    A ValueError or TypeError is due to the input if a ``raise`` statement raised it. If Python raised it in the middle
    of an expression, it is a bug: the kinds of all options were checked before.

    Args:
        error: The error.
        command: The command.
        overrides: The options on its command line.
    """
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        return _line(f"{_full_key(error)}: {error.__cause__}")
    if isinstance(error, MissingConfigException):
        return _missing_choice(error, command)
    if isinstance(error, OverrideParseException):
        if "=" not in error.override.strip("="):
            return f"cannot read {error.override!r}: give options as NAME=VALUE, without spaces around ="
        return (
            f"cannot read {error.override!r}: put quotes around it if it holds brackets or spaces, 'NAME=[A,B]', and "
            "inside of it around what holds an equals sign, 'NAME=[\"A=1\",B]'"
        )
    if isinstance(error, ConfigCompositionException):
        return _wrong_override(error, command, overrides)
    if isinstance(error, MissingMandatoryValue | InterpolationToMissingValueError):
        return _no_value(error, command, overrides)
    if isinstance(error, OmegaConfBaseException):
        name = f"{error.full_key}: " if error.full_key else ""
        return _line(f"{name}{error.msg or error}".partition("\n")[0])
    if isinstance(error, OSError | CompactHydraException):
        return _line(str(error))
    if "Config group override must be a string" in str(error):
        return _choice_of_nothing(command, overrides)
    if isinstance(error, ImportError) or (isinstance(error, ValueError | TypeError) and _is_deliberate(error)):
        return _line(str(error) if _is_ours(error) else f"{error} (HYDRA_FULL_ERROR=1 shows where)")
    return None


@contextmanager
def given_by(option: str, name: str, overrides: Sequence[str]) -> Iterator[None]:
    """Put the option that gives the overrides of another command before the errors of that command's config.

    Args:
        option: The option of the running command.
        name: The other command.
        overrides: Its overrides.

    Raises:
        ValueError: The other command's config is wrong.
    """
    try:
        yield
    except Exception as error:
        line = explain(error, Command(CONF, name, f"experiments.{name}", None), list(overrides))
        if line is None:
            raise
        raise ValueError(f"{option}: {line}") from error


def _line(text: str) -> str:
    return " ".join(text.split())


def _full_key(error: BaseException) -> str:
    """Return the option that a Hydra error names."""
    found = re.search(r"full_key: (\S+)", str(error))
    return found[1] if found else "config"


def _missing_choice(error: MissingConfigException, command: Command) -> str:
    """Explain an unknown choice of a group."""
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    if group.startswith("hydra/"):
        return f"{group}={choice} is not installed: pip install -c constraints.txt -e '.[sweeps]'"
    choices = command.choices_of(group)
    return f"{group}={choice}: there is no such choice{nearest(choice, choices)}; choose from {', '.join(choices)}"


def _choice_of_nothing(command: Command, overrides: list[str]) -> str:
    """Explain a group that is set to a value that is not a name."""
    for override in overrides:
        group, _, choice = override.partition("=")
        if command.choices_of(group) and choice not in command.choices_of(group):
            return f"{group}={choice}: there is no such choice; choose from {', '.join(command.choices_of(group))}"
    return "a group must be set to the name of a choice"


def _wrong_override(error: ConfigCompositionException, command: Command, overrides: list[str]) -> str:
    """Explain an override that does not fit: an unknown option with similar names, or a value that cannot be merged."""
    text = str(error)
    present = re.search(r"An item is already at '(?P<key>[^']+)'", text)
    if present:
        return f"{present['key']} is an option already: leave out the +"
    merged = re.search(r"Error merging override '?(?P<key>[^=]+)=(?P<value>.*?)'?$", text.partition("\n")[0])
    if merged and "DictConfig" in f"{text}{error.__cause__}":
        return f"{merged['key']} must be a mapping, got {merged['value']}"
    choice = re.search(r"In '(?P<group>\w+)/(?P<choice>\w+)': Could not override '(?P<key>[^']+)'", text)
    if choice:
        return f"{choice['group']}={choice['choice']} does not go with this command, which has no {choice['key']}"
    found = re.search(r"Could not (?:override|delete from config\.) '(?P<key>[^']+)'", text)
    if not found:
        cause = f": {error.__cause__}" if isinstance(error.__cause__, OmegaConfBaseException) else ""
        return _line(text + cause)
    key = found["key"]
    try:
        config, choices = command.compose([override for override in overrides if not override.startswith(f"{key}=")])
    except Exception:
        # Another override is wrong as well: use the options without overrides.
        config, choices = command.compose([])
    # The option may exist, and what is unknown be a key of the mapping that is given for it.
    inside = re.search(r"full_key: (.+)", str(error.__cause__))
    name = inside[1] if inside and inside[1].startswith(f"{key}.") else key
    known = [*choices, *(option.name for option in command.options(config, choices))]
    above = name.rpartition(".")[0]
    mapping = OmegaConf.select(config, above) if above else None
    # The keys of a mapping that is explained as a whole are not among the options.
    if isinstance(mapping, DictConfig) and not any(option.startswith(f"{above}.") for option in known):
        known += [f"{above}.{other!s}" for other in mapping]
    return f"{name}: there is no such option{nearest(name, known)}; python -m {command.program} --help lists all"


def _no_value(error: OmegaConfBaseException, command: Command, overrides: list[str]) -> str:
    """Explain which option must be given, and what it means."""
    text = str(error)
    found = re.search(r"MissingMandatoryValue while resolving interpolation: Missing mandatory value: (\S+)", text)
    name = found[1] if found else error.full_key or _full_key(error)
    _, choices = command.compose(overrides)
    meaning = command.explanations(choices).get(str(name), "")
    return f"{name} must be given: {name}=...{f' ({meaning})' if meaning else ''}"


def _is_deliberate(error: BaseException) -> bool:
    """Return whether a ``raise`` statement raised an error."""
    trace = _innermost(error)
    return trace is None or dis.opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"


def _is_ours(error: BaseException) -> bool:
    """Return whether ShrinkML's code raised an error, so that its message is meant for the user."""
    trace = _innermost(error)
    if trace is None:
        return True
    path = Path(trace.tb_frame.f_code.co_filename)
    return any(path.is_relative_to(ROOT / package) for package in OURS)


def _innermost(error: BaseException) -> TracebackType | None:
    """Return the part of an error's traceback where the error was raised; None if the error was never raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace
