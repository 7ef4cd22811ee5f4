"""Export a model to another format: ``python -m experiments.export run=DIR format=safetensors|torch|onnx|huggingface``.

``run`` is the folder of a run, whose compressed or trained model is exported, or of a saved model. The exported model
is loaded again, and its transcripts of a set of utterances must equal the model's. See docs/export.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments.common.command import command
from experiments.common.compose import to_container
from experiments.common.kinds import NAME, UTTERANCES, choice, optional
from experiments.common.record import read_record
from shrinkml_env import load_model, load_utterances
from shrinkml_env.export import FORMATS, export_model
from shrinkml_env.progress import progress

__all__ = ["export"]


def export(run: Path, format_name: str, out: Path | None = None, utterances: Any = None) -> Path:
    """Export a model, check the result, and print its files.

    Args:
        run: The folder of a run or of a model.
        format_name: A name in `shrinkml_env.export.FORMATS`.
        out: The folder to create; by default ``export/FORMAT`` in `run`.
        utterances: The set for the comparison of transcripts; None takes the run's own proxy set, its dev set if it has
            no proxy set (`experiments.quantise`), or else the default proxy set.

    Returns:
        The new folder.

    Raises:
        FileNotFoundError: There is no model in the folder.
        FileExistsError: The folder to create exists.
        ImportError: A package that the format needs is not installed.
        ValueError: The format does not support this model, or transcripts differ by more than rounding.
    """
    if not run.is_dir():
        raise FileNotFoundError(f"run={run}: there is no such folder")
    record = run / "best.json"
    if record.is_file() and utterances is None:
        sets = read_record(record).get("utterances", {})
        utterances = sets.get("proxy", sets.get("dev"))
    model = load_model(run)
    out = run / "export" / format_name if out is None else out
    compared = load_utterances("proxy" if utterances is None else utterances, "set")
    with progress(compared, desc="checked", unit="utterance") as bar:
        near_ties = export_model(model, out, format_name, bar)
    for file in sorted(out.iterdir()):
        print(f"{file.stat().st_size / 1e6:10.2f} MB  {file}")
    print(f"The same transcripts of {len(compared) - len(near_ties)} of {len(compared)} utterances.")
    if near_ties:
        print(f"Rounding decided otherwise between two units almost equally probable in {', '.join(near_ties)}.")
    return out


@command("export", run=NAME, format=choice(*FORMATS), out=optional(NAME), set=optional(UTTERANCES))
def main(config: DictConfig) -> None:
    """Export one model."""
    out = None if config.out is None else Path(config.out)
    export(Path(config.run), config.format, out, to_container(config.set))


if __name__ == "__main__":
    main()
