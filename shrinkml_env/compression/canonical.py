"""Reproducible arithmetic and content hashes: the same numbers and cache keys in every process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["content_bytes", "digest", "one_thread"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Set torch to one thread within the context, since the order of additions depends on the number of threads.

    SciPy has threads of its own, which this does not limit: what it computes, the order of columns in pivoting form,
    may differ in the last digits of float64, which rounding to the file's format removes.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def digest(parts: Iterable[bytes]) -> str:
    """Return the SHA-256 hash of a sequence of byte strings, in hexadecimal."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.hexdigest()


def content_bytes(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor's dtype, shape and values."""
    content = tensor.detach().cpu().contiguous()
    return f"{content.dtype} {tuple(content.shape)} ".encode() + content.view(-1).view(torch.uint8).numpy().tobytes()
