"""How far a search has come, on the terminal."""

from __future__ import annotations

from tqdm import tqdm

from shrinkml_env.evaluation.result import Evaluation

__all__ = ["ProgressBar"]


class ProgressBar:
    """A progress bar observes a ledger: ``ledger.subscribe(bar)``. It shows the latest WER and size ratio.

    Args:
        total: Unique evaluations when it is full: the budget; None for no end.
        description: What stands before it.
    """

    def __init__(self, total: int | None = None, description: str = "search") -> None:
        self._bar = tqdm(total=total, desc=description, unit="evaluation")

    def __call__(self, evaluation: Evaluation, count: int) -> None:
        """Show a new evaluation, the `count`-th of its run."""
        self._bar.update(count - self._bar.n)
        self._bar.set_postfix_str(f"last: WER {100 * evaluation.wer:.1f} %, size {evaluation.size_ratio:.2f}")

    def close(self) -> None:
        """Leave the bar as it is: it shows nothing more."""
        self._bar.close()
