"""Results that outlive the process, for what is slow to compute and small."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from shrinkml_env.compression.canonical import content_bytes, digest
from shrinkml_env.compression.protocol import CompressibleModel
from shrinkml_env.compression.tensors import device_of, inference_tensors

__all__ = ["Store", "model_content", "recognition_content", "remembered"]


class Store(Protocol):
    """A key-value store of JSON objects that several processes may share; an `EvaluationCache` is one."""

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the value stored under a key, or None."""

    def put(self, key: str, value: dict[str, Any], subject: str = "") -> None:
        """Store a value, with a line for people that says what it is."""

    def exclusive(self, keys: Iterable[str]) -> AbstractContextManager[None]:
        """Keep other processes from computing the values of these keys."""


def remembered(
    store: Store | None, content: Iterable[bytes], subject: str, compute: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Return a result from a store, or compute it and store it there.

    Args:
        store: None computes it every time, and keeps nothing.
        content: Everything that the result depends on.
        subject: A line for people that says what the result is.
        compute: Returns the result, a JSON object.
    """
    if store is None:
        return compute()
    key = digest(content)
    # Without a lock, which needs write access: what is known can be read by everybody.
    known = store.get(key)
    if known is not None:
        return known
    with store.exclusive([key]):
        known = store.get(key)
        if known is None:
            known = compute()
            store.put(key, known, f"{subject} {key[:12]}")
    return known


def model_content(model: CompressibleModel) -> Iterable[bytes]:
    """Yield what makes a model what it is: architecture, configuration and weights."""
    yield model.architecture.encode()
    yield json.dumps(model.to_config(), sort_keys=True).encode()
    for name, tensor in sorted(inference_tensors(model).items()):
        yield name.encode()
        yield content_bytes(tensor)


def recognition_content(model: CompressibleModel) -> Iterable[bytes]:
    """Yield what determines the numbers inside a model while it recognises: itself, its decoder and the arithmetic."""
    # Rounding differs between kinds of devices and versions of torch.
    yield json.dumps([torch.__version__, device_of(model)]).encode()
    yield json.dumps(dict(model.decoder_settings), sort_keys=True).encode()
    yield from model_content(model)
