"""What TensorBoard shows of a finished search besides its curves: settings beside the result, and the picture."""

from __future__ import annotations

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from experiments.common.pictures import plt
from shrinkml_env import SearchResult

__all__ = ["log_result"]


def log_result(directory: Path, result: SearchResult) -> None:
    """Add the settings and the result of a search, and its picture ``search.png``, to ``tensorboard/`` in its folder.

    Args:
        directory: The folder of the run, with the picture.
        result: The result of the search.
    """
    wers = {f"result/{name}_wer": wer for name, wer in result.wer.items()}
    with SummaryWriter(str(directory / "tensorboard")) as writer:
        writer.add_hparams(
            dict(result.config["settings"]), {"result/size_ratio": result.size_ratio, **wers}, run_name="."
        )
        writer.add_image("search", plt.imread(directory / "search.png"), dataformats="HWC")
