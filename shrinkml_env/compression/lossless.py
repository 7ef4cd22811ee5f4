"""A check that a model's code works with low-rank modules in place of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from shrinkml_env.compression.canonical import one_thread
from shrinkml_env.compression.compress import replace_matrices
from shrinkml_env.compression.factors import Factors
from shrinkml_env.compression.protocol import CompressibleModel
from shrinkml_env.compression.svd import weights_of

__all__ = ["require_lossless"]


def require_lossless(model: CompressibleModel, waveforms: Sequence[Tensor]) -> None:
    """Check that a model's transcripts stay the same when all its matrices are replaced by lossless factors.

    The factors of a matrix are the matrix itself and an identity matrix, in float32, so that rounding hardly changes. A
    different transcript, an exception, or a call of one of the original's modules means that the model's code does more
    with a module than to call it and read its weights. In that case the modules are replaced one by one, to find the
    one at fault.

    Args:
        model: An uncompressed model in evaluation mode; it is not changed.
        waveforms: A few short utterances: float32 samples at 16 kHz, (samples,) each.

    Raises:
        ValueError: The transcripts differ, and the message names the first module at fault; or the model's transcripts
            of one waveform differ between calls.
    """
    factors: dict[str, dict[str, Factors]] = {}
    for matrix, weight in weights_of(model):
        factors.setdefault(matrix.name.rpartition(".")[0], {})[matrix.name] = _lossless(weight)
    with one_thread():
        expected = _texts(model, waveforms)
        fault = _fault(
            model, {name: pair for parts in factors.values() for name, pair in parts.items()}, waveforms, expected
        )
        if fault is None:
            return
        if _texts(model, waveforms) != expected:
            raise ValueError("the model transcribes the same waveforms differently every time: is dropout active?")
        found = ((path, _fault(model, parts, waveforms, expected)) for path, parts in factors.items())
        path, fault = next(((path, fault) for path, fault in found if fault is not None), ("", fault))
    where = f"module {path!r}" if path else "no module alone, but all of them together"
    raise ValueError(
        f"{where}: held as factors that lose nothing, the model {fault}. Its code does more with the module than"
        " call it and read its weights: change that, or leave"
        " the module out of the model's `layers` (`no_layers` of a Recogniser)"
    )


def _lossless(weight: nn.Parameter) -> Factors:
    """Return factors that equal the weight: the weight and an identity matrix, of rank min(m, n)."""
    dense = weight.detach().flatten(1)
    rows, columns = dense.shape
    identity = torch.eye(min(rows, columns), dtype=dense.dtype, device=dense.device)
    return Factors(identity, dense) if rows < columns else Factors(dense, identity)


def _texts(model: CompressibleModel, waveforms: Sequence[Tensor]) -> list[str]:
    return [hypothesis.text for hypothesis in model.recognise(waveforms)]


def _fault(
    model: CompressibleModel, factors: Mapping[str, Factors], waveforms: Sequence[Tensor], expected: Sequence[str]
) -> str | None:
    """Return how a model with these factors misbehaves, as the end of a sentence; None if it does not."""
    low_rank = replace_matrices(model, factors)
    # After the copy, which would take the hooks over.
    modules = dict(cast(nn.Module, model).named_modules(remove_duplicate=False))
    called: list[str] = []
    handles = [
        modules[path].register_forward_pre_hook(lambda *_, path=path: called.append(path))
        for path in {name.rpartition(".")[0] for name in factors}
    ]
    try:
        texts = _texts(low_rank, waveforms)
    except Exception as error:  # The model's code may raise anything.
        return f"fails with {type(error).__name__}: {error}"
    finally:
        for handle in handles:
            handle.remove()
    if called:
        return f"goes on calling {called[0]!r} of the original, to which it holds a reference"
    return next(
        (
            f"transcribes {actual!r} instead of {text!r}"
            for actual, text in zip(texts, expected, strict=True)
            if actual != text
        ),
        None,
    )
