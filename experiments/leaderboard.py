"""Validate submitted results and rank them: ``python -m experiments.leaderboard [add=[RUN, ...]]``.

Every submission is measured again before the page is written; one that does not reproduce is refused. A submission is
the ``best.json`` of a run on the embedded model and its sets. The score is that on test, which no search sees.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments.common.command import command
from experiments.common.kinds import NAME, list_of
from experiments.common.record import named_classes, read_record
from experiments.validate import validate_ranks
from shrinkml_env.data import SHIPPED_SETS
from shrinkml_env.files import write_atomic

HEAD = (
    "place",
    "agent",
    "reward function",
    "evaluations",
    "seed",
    "size ratio",
    "dev WER %",
    "test WER %",
    "score",
    "submission",
)

PAGE = """# Leaderboard

This table ranks compressed models of `las_small` (test WER {original:.2f} %) that searches on the proxy set have found,
without retraining. The score is the default reward's formula on **test**, -(e - e0) - {weight} s, which no search has
seen. A row is a single run, so the table does not rank algorithms; the [benchmark](benchmark.md) does.

{table}

`python -m experiments.leaderboard` writes this page. It measures every submission in [{folder}/]({folder}) again and
refuses a submission if the results differ. To submit a run of `experiments.search`, run
`python -m experiments.leaderboard add=[outputs/search/RUN]` and commit what it changes.
"""

WEIGHT = 0.2

SETS = ("proxy", "dev", "test")


def score(record: dict[str, Any]) -> float:
    """Return the score of a submission: -(e - e0) - 0.2 s on test."""
    test = record["sets"]["test"]
    return -(float(test["wer_after"]) - float(test["wer_before"])) - WEIGHT * float(record["size_ratio"])


def refusals(path: Path) -> list[str]:
    """Return the reasons to refuse a submission, one line each; empty if it is accepted."""
    record = _read(path)
    if classes := named_classes(record):
        return [f"a submission is data, and this one names code: {classes[0]}"]
    if record.get("model") != "las_small":
        return [f"the leaderboard is for the model las_small, not {record.get('model')}"]
    proxies = [name for name, shipped in SHIPPED_SETS.items() if shipped["subset"] == "proxy-pool"]
    if record["utterances"].keys() != set(SETS):
        return [f"the leaderboard is for the sets {', '.join(SETS)}, not {', '.join(record['utterances'])}"]
    for name, spec in record["utterances"].items():
        if spec not in (proxies if name == "proxy" else [name]):
            return [f"the leaderboard is for the shipped sets, each for its purpose: {name} is {spec}"]
    try:
        return validate_ranks(path)
    except (ValueError, FileNotFoundError) as error:
        return [str(error)]


def page(submissions: Sequence[Path], folder: str = "leaderboard") -> str:
    """Return the leaderboard in Markdown.

    Args:
        submissions: The files of the submissions.
        folder: The folder of the submissions, relative to the page.
    """
    records = {path.stem: _read(path) for path in submissions}
    ordered = sorted(records, key=lambda name: -score(records[name]))
    rows = []
    for place, name in enumerate(ordered, start=1):
        record, settings = records[name], records[name]["settings"]
        rows.append(
            (
                str(place),
                _cell(record["title"].rsplit("-", 2)[0]),
                _cell(settings["reward"]),
                str(record["evaluations"]),
                _cell(settings["seed"]),
                f"{record['size_ratio']:.3f}",
                f"{100 * record['sets']['dev']['wer_after']:.2f}",
                f"{100 * record['sets']['test']['wer_after']:.2f}",
                f"{score(record):.4f}",
                f"[{_cell(name)}]({folder}/{name}.json)",
            )
        )
    lines = [HEAD, ["---"] * len(HEAD), *rows]
    original = 100 * records[ordered[0]]["sets"]["test"]["wer_before"]
    return PAGE.format(
        folder=folder, original=original, weight=WEIGHT, table="\n".join(f"| {' | '.join(line)} |" for line in lines)
    )


def _read(path: Path) -> dict[str, Any]:
    """Read and check a submission.

    Raises:
        ValueError: The file is not the record of a search, or lacks keys that the page needs.
    """
    record = read_record(path, "model", "utterances", "sets", "title", "settings", "evaluations", "size_ratio")
    for key, needed in (("settings", ("reward", "seed")), ("sets", SETS)):
        missing = [name for name in needed if name not in record[key]]
        if missing:
            raise ValueError(f"{path}: {key} lacks {missing[0]}: it must be the best.json of a search")
    return record


def _cell(text: str) -> str:
    """Return a text of a submission as a cell of a Markdown table, with markup escaped."""
    return escape(" ".join(text.split())).replace("|", "&#124;").replace("[", "&#91;").replace("`", "&#96;")


def result_of(run: Path) -> Path:
    """Return the file to submit of a run.

    Raises:
        FileNotFoundError: The folder does not contain a finished run.
    """
    source = run / "best.json"
    if not source.is_file():
        raise FileNotFoundError(f"{source} is missing: is {run} a finished run of experiments.search?")
    return source


@command("leaderboard", add=list_of(NAME, least=0), submissions=NAME, page=NAME)
def main(config: DictConfig) -> None:
    """Write the page; if a submission is refused, change nothing and exit with status 1."""
    folder, target = Path(config.submissions), Path(config.page)
    added = {folder / f"{Path(run).resolve().name}.json": result_of(Path(run)) for run in config.add}
    if len(added) < len(config.add):
        raise ValueError("add names two runs with folders of the same name, by which submissions are distinguished")
    submitted = {path: path for path in sorted(folder.glob("*.json"))} | added
    if not submitted:
        raise FileNotFoundError(f"{folder} holds no submission: give add=[RUN]")
    refused = {path: reasons for path, source in submitted.items() if (reasons := refusals(source))}
    if refused:
        sys.exit("\n".join(f"REFUSED {path.stem}: {reason}" for path, reasons in refused.items() for reason in reasons))
    folder.mkdir(parents=True, exist_ok=True)
    for path, source in added.items():
        write_atomic(path, source.read_bytes())
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, page(sorted(submitted), os.path.relpath(folder, target.parent)))
    print(f"{len(submitted)} submissions reproduced: {config.page}")


if __name__ == "__main__":
    main()
