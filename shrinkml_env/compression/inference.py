"""How each factored module computes fastest on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from shrinkml_env.compression.modules import Form, LowRank
from shrinkml_env.compression.protocol import CompressibleModel

__all__ = ["optimise_for_inference"]

ROUNDS = 3
"""The fastest counts: whatever else the machine does makes a round slower, never faster."""

SHORTEST = 2e-3
"""Seconds: calls that take less are timed several at once."""


@dataclass(slots=True)
class _Call:
    """What a module was asked, once for each shape, and how often."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    count: int = 0


@torch.inference_mode()
def optimise_for_inference(model: CompressibleModel, waveforms: Sequence[Tensor]) -> dict[str, Form]:
    """Choose for each factored module of a model, in place, the form in which it computes fastest here.

    The model recognises the waveforms once, and every module is timed in all of its forms on what it was asked. What is
    fastest depends on the ranks, on the machine, on torch's number of threads and on how much is recognised at once.
    Transcripts may change where two tokens are almost equally probable. The factors stay what the model consists of,
    counts and saves; a merged module keeps the product in memory besides.

    Args:
        model: Compressed, in evaluation mode.
        waveforms: One batch, as many and as long as will be recognised at once: float32 samples at 16 kHz.

    Returns:
        Path of each factored module -> its form.
    """
    modules = {path: part for path, part in cast(nn.Module, model).named_modules() if isinstance(part, LowRank)}
    for module in modules.values():
        module.form = module.forms[0]
    with _recorded(modules) as calls:
        model.recognise(waveforms)
    for path, module in modules.items():
        if calls[path]:
            module.form = _fastest(module, list(calls[path].values()))
    return {path: module.form for path, module in modules.items()}


@contextmanager
def _recorded(modules: Mapping[str, LowRank]) -> Iterator[dict[str, dict[str, _Call]]]:
    """Path -> shapes of the arguments -> call."""
    calls: dict[str, dict[str, _Call]] = {path: {} for path in modules}

    def record(path: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        shapes = torch.utils._pytree.tree_map(lambda part: getattr(part, "shape", part), (args, dict(kwargs)))
        calls[path].setdefault(str(shapes), _Call(args, kwargs)).count += 1

    handles = [
        module.register_forward_pre_hook(partial(record, path), with_kwargs=True) for path, module in modules.items()
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _fastest(module: LowRank, calls: Sequence[_Call]) -> Form:
    seconds = dict.fromkeys(module.forms, 0.0)
    if len(seconds) > 1:
        for call in calls:
            for form, spent in _seconds(module, call).items():
                seconds[form] += call.count * spent
    module._cache.clear()  # What the other forms keep.
    return min(seconds, key=lambda form: seconds[form])


def _seconds(module: LowRank, call: _Call) -> dict[Form, float]:
    """Of one call in each form, the forms in turns."""
    best: dict[Form, float] = {}
    repeats = 1
    for number in range(ROUNDS + 1):
        for form in module.forms:
            module.form = form
            started = time.perf_counter()
            for _ in range(repeats):
                module(*call.args, **call.kwargs)
            spent = (time.perf_counter() - started) / repeats
            if number:  # The first round multiplies back what is kept then.
                best[form] = min(spent, best.get(form, spent))
        if not number:
            repeats = max(1, round(SHORTEST / max(spent, 1e-6)))
    return best
