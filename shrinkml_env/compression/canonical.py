"""What makes numbers and cache keys the same in every process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["content_bytes", "digest", "one_thread"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, whatever the caller's setting: the order of a sum depends on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def digest(parts: Iterable[bytes]) -> str:
    """SHA-256 of a sequence of byte strings, in hexadecimal."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.hexdigest()


def content_bytes(tensor: Tensor) -> bytes:
    """A tensor's number format, shape and values."""
    content = tensor.detach().cpu().contiguous()
    return f"{content.dtype} {tuple(content.shape)} ".encode() + content.view(-1).view(torch.uint8).numpy().tobytes()
