"""Choice of the fastest way to compute each factored module on the present machine."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from shrinkml_env.compression.modules import Execution, LowRank
from shrinkml_env.compression.protocol import CompressibleModel
from shrinkml_env.compression.tensors import device_of

__all__ = ["optimise_for_inference"]

ROUNDS = 3
"""Timed runs of each execution. The minimum counts, since other load on the machine only slows calls down."""


@torch.inference_mode()
def optimise_for_inference(model: CompressibleModel, waveforms: Sequence[Tensor]) -> dict[str, Execution]:
    """Set each factored module of a model, in place, to the execution that is fastest on this machine.

    The model recognises the waveforms a few times with each execution while its modules are timed inside the model,
    since a module that runs alone would find its weights in the processor's cache. The fastest execution depends on the
    ranks, the machine, torch's number of threads and the size of the batch. Transcripts may change where two tokens are
    almost equally probable. The parameters, their count and the saved file do not change; a merged module also keeps
    the product in memory.

    Args:
        model: A compressed model in evaluation mode.
        waveforms: One batch of typical number and length: float32 samples at 16 kHz, (samples,) each.

    Returns:
        Path of each factored module -> its execution.
    """
    modules = {path: part for path, part in cast(nn.Module, model).named_modules() if isinstance(part, LowRank)}
    executions = sorted({execution for module in modules.values() for execution in module.executions})
    timers = {execution: _Timer(modules, device_of(model)) for execution in executions}
    before = {path: module.execution for path, module in modules.items()}
    try:
        _time(model, waveforms, modules, timers)
    except BaseException:
        for path, module in modules.items():
            module.execution = before[path]
            module.refresh()
        raise
    for path, module in modules.items():
        # Calls are counted in the usual execution; shapes that did not occur in all of them, because the number of
        # tokens differed, are left out.
        known = set.intersection(*(set(timers[execution].counts[path]) for execution in module.executions))
        counts = {shapes: timers["factored"].counts[path][shapes] for shapes in known}
        seconds = {execution: timers[execution].seconds(path, counts) for execution in module.executions}
        module.execution = min(seconds, key=lambda execution: seconds[execution])
        module.refresh()  # it holds the products of other executions
    return {path: module.execution for path, module in modules.items()}


def _time(
    model: CompressibleModel,
    waveforms: Sequence[Tensor],
    modules: Mapping[str, LowRank],
    timers: Mapping[Execution, _Timer],
) -> None:
    """Let the model recognise the waveforms with each execution, in turns, and time its modules."""
    for number in range(ROUNDS + 1):
        for execution, timer in timers.items():
            for module in modules.values():
                module.execution = execution if execution in module.executions else module.executions[0]
            if number:
                with timer.running():
                    model.recognise(waveforms)
            else:  # the first run computes the products that are cached
                model.recognise(waveforms)


def _clock(device: str) -> Callable[[], float]:
    """Return a clock for what a device computes, in seconds."""
    if device != "cpu":
        return _clock_of_accelerator
    # The thread's own time excludes the time of other programs.
    return time.thread_time if torch.get_num_threads() == 1 else time.perf_counter


def _clock_of_accelerator() -> float:
    torch.cuda.synchronize()  # a call returns before its kernels have run
    return time.perf_counter()


class _Timer:
    """Measures the time of modules' calls inside a model.

    Args:
        modules: Path -> module.
        device: The device that they compute on.

    Attributes:
        counts: Path -> shapes of the arguments -> number of calls.
    """

    def __init__(self, modules: Mapping[str, LowRank], device: str) -> None:
        self._modules = modules
        self._clock = _clock(device)
        self._fastest: dict[tuple[str, str], float] = {}
        self._started: list[float] = []  # of the calls that run now, one inside the other
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)

    def seconds(self, path: str, counts: Mapping[str, int]) -> float:
        """Return the seconds of a module's calls, each as fast as the fastest one of its shapes.

        Args:
            path: The module.
            counts: Shapes of the arguments -> number of calls.
        """
        return sum(count * self._fastest[path, shapes] for shapes, count in counts.items())

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time all calls within the context."""
        handles = [
            handle for path, module in self._modules.items() for handle in self._register(path, module, self._clock)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _register(self, path: str, module: nn.Module, clock: Callable[[], float]) -> list[Any]:
        def start(*_: Any) -> None:
            self._started.append(clock())

        def stop(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            spent = clock() - self._started.pop()
            key = path, str(tree_map(lambda part: getattr(part, "shape", part), (args, kwargs)))
            self._fastest[key] = min(spent, self._fastest.get(key, spent))
            self.counts[path][key[1]] += 1

        return [
            module.register_forward_pre_hook(start),
            module.register_forward_hook(stop, with_kwargs=True),
        ]
