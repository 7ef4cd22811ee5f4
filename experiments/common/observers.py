"""Observers of a ledger that only the commands have."""

from __future__ import annotations

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from shrinkml_env import Evaluation

__all__ = ["TensorBoardLog"]


class TensorBoardLog:
    """A TensorBoard log with the WER and the size ratio of every new evaluation.

    Args:
        directory: Where TensorBoard's files are written.
    """

    def __init__(self, directory: Path) -> None:
        self._writer = SummaryWriter(str(directory))

    def __call__(self, evaluation: Evaluation, count: int) -> None:
        """Log an evaluation, the `count`-th of its run."""
        self._writer.add_scalar("evaluation/wer", evaluation.wer, count)
        self._writer.add_scalar("evaluation/size_ratio", evaluation.size_ratio, count)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
