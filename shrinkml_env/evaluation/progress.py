"""The progress bar of a search."""

from __future__ import annotations

from shrinkml_env.evaluation.result import Evaluation
from shrinkml_env.progress import progress

__all__ = ["ProgressBar"]


class ProgressBar:
    """A progress bar of a ledger's unique evaluations: ``ledger.subscribe(bar)``. It shows the last WER and size ratio.

    Args:
        total: Number of unique evaluations at 100 %: the budget; None if there is no limit.
        description: The text before the bar.
    """

    def __init__(self, total: int | None = None, description: str = "search") -> None:
        self._bar = progress(total=total, desc=description, unit="evaluation")

    def __call__(self, evaluation: Evaluation, count: int) -> None:
        """Advance the bar to `count` and show a new evaluation."""
        last = f"last: WER {100 * evaluation.wer:.1f} %, size {evaluation.size_ratio:.2f}"
        self._bar.set_postfix_str(last, refresh=False)
        self._bar.update(count - self._bar.n)

    def close(self) -> None:
        """Stop updating the bar; it stays visible."""
        self._bar.close()
