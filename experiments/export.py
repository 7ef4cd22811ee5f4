"""A model in another format: ``python -m experiments.export run=DIR format=safetensors|torch|onnx|huggingface``.

``run`` is a search's run directory, of which the compressed model is exported, or a saved model's folder. What was
written is loaded again and must transcribe a set of utterances as the model does. See docs/export.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from tqdm import tqdm

from experiments.common.checks import require_choice
from experiments.common.command import command
from experiments.common.record import read_record
from experiments.common.run_directory import plain
from shrinkml_env import load_compressed, load_utterances
from shrinkml_env.export import FORMATS, export_model

__all__ = ["export"]


def export(run: Path, format_name: str, out: Path | None = None, utterances: Any = None) -> Path:
    """Export a model and check what was written; prints where it is.

    Args:
        run: The run directory or the model's folder.
        format_name: See `shrinkml_env.export.FORMATS`.
        out: The folder to be made; by default ``export/FORMAT`` in the run directory.
        utterances: On which the transcripts are compared; None takes the run's own proxy set, its dev set where it
            has none (`experiments.quantise`), or the default one.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: There is no model.
        See `export_model`.
    """
    folder, record = run, run / "best.json"
    if record.is_file():
        folder = run / "compressed"
        sets = read_record(record).get("utterances", {})
        utterances = sets.get("proxy", sets.get("dev")) if utterances is None else utterances
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{run} is neither a finished run of experiments.search nor a saved model's folder")
    model = load_compressed(folder)
    out = run / "export" / format_name if out is None else out
    compared = load_utterances("proxy" if utterances is None else utterances)
    with tqdm(compared, desc="checked", unit="utterance") as bar:
        near_ties = export_model(model, out, format_name, bar)
    for file in sorted(out.iterdir()):
        print(f"{file.stat().st_size / 1e6:10.2f} MB  {file}")
    print(f"The same transcripts of {len(compared) - len(near_ties)} of {len(compared)} utterances.")
    if near_ties:
        print(f"Rounding decided otherwise between two units almost equally probable in {', '.join(near_ties)}.")
    return out


@command("export")
def main(config: DictConfig) -> None:
    """Export one model."""
    torch.set_num_threads(1)
    require_choice(config, "format", list(FORMATS))
    out = None if config.out is None else Path(config.out)
    export(Path(config.run), config.format, out, plain(config.set))


if __name__ == "__main__":
    main()
