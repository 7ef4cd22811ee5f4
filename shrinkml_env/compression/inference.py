"""How each factored module computes fastest on this machine."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from shrinkml_env.compression.modules import Form, LowRank
from shrinkml_env.compression.protocol import CompressibleModel

__all__ = ["optimise_for_inference"]

ROUNDS = 3
"""The fastest call counts: whatever else the machine does makes one slower, never faster."""


@torch.inference_mode()
def optimise_for_inference(model: CompressibleModel, waveforms: Sequence[Tensor]) -> dict[str, Form]:
    """Choose for each factored module of a model, in place, the form in which it computes fastest here.

    The model recognises the waveforms a few times in each form while its modules are timed, in their places: alone, a
    module would find all that it needs in the processor's cache. What is fastest depends on the ranks, on the machine,
    on torch's number of threads and on how much is recognised at once. Transcripts may change where two tokens are
    almost equally probable. The factors stay what the model consists of, counts and saves; a merged module keeps the
    product in memory besides.

    Args:
        model: Compressed, in evaluation mode.
        waveforms: One batch, as many and as long as will be recognised at once: float32 samples at 16 kHz.

    Returns:
        Path of each factored module -> its form.
    """
    modules = {path: part for path, part in cast(nn.Module, model).named_modules() if isinstance(part, LowRank)}
    forms = sorted({form for module in modules.values() for form in module.forms})
    timers = {form: _Timer(modules) for form in forms}
    for number in range(ROUNDS + 1):
        for form, timer in timers.items():
            for module in modules.values():
                module.form = form if form in module.forms else module.forms[0]
            if number:
                with timer.running():
                    model.recognise(waveforms)
            else:  # Multiplies back what is kept from then on.
                model.recognise(waveforms)
    for path, module in modules.items():
        # As often as in the usual form; a shape that another form never met, because the model wrote fewer tokens, is
        # left out.
        known = set.intersection(*(set(timers[form].counts[path]) for form in module.forms))
        counts = {shapes: timers["factored"].counts[path][shapes] for shapes in known}
        seconds = {form: timers[form].seconds(path, counts) for form in module.forms}
        module.form = min(seconds, key=lambda form: seconds[form])
        module._cache.clear()  # What the other forms keep.
    return {path: module.form for path, module in modules.items()}


class _Timer:
    """Seconds that modules take in their places in a model.

    Args:
        modules: By path.

    Attributes:
        counts: Path -> shapes of the arguments -> calls.
    """

    def __init__(self, modules: Mapping[str, LowRank]) -> None:
        self._modules = modules
        self._fastest: dict[tuple[str, str], float] = {}
        self._started = 0.0
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)

    def seconds(self, path: str, counts: Mapping[str, int]) -> float:
        """Of so many calls of each shape, as fast as the fastest of them."""
        return sum(count * self._fastest[path, shapes] for shapes, count in counts.items())

    @contextmanager
    def running(self) -> Iterator[None]:
        """Times all calls."""
        # One thread's own time does not count what other programs take.
        clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
        handles = [handle for path, module in self._modules.items() for handle in self._register(path, module, clock)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _register(self, path: str, module: nn.Module, clock: Callable[[], float]) -> list[Any]:
        def start(*_: Any) -> None:
            self._started = clock()

        def stop(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            spent = clock() - self._started
            key = path, str(tree_map(lambda part: getattr(part, "shape", part), (args, kwargs)))
            self._fastest[key] = min(spent, self._fastest.get(key, spent))
            self.counts[path][key[1]] += 1

        return [
            module.register_forward_pre_hook(start),
            module.register_forward_hook(stop, with_kwargs=True),
        ]
