"""The choice of the calibration set: a few training utterances, copied into the package."""

from __future__ import annotations

import json
import random
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.build.synthetic.rendering import MANIFEST

__all__ = ["CALIBRATION", "choose_calibration", "copy_calibration"]

CALIBRATION = "calibration"
"""The name of the subset."""


def choose_calibration(records: Sequence[Mapping[str, Any]], count: int, seed: int) -> list[str]:
    """Choose utterances that are spread over speakers and durations, and return their ids.

    The speakers take turns in a random order. The i-th choice is the speaker's utterance whose duration is at the
    quantile (i + 1/2) / count.

    Args:
        records: The training set's manifest.
        count: Number of utterances to choose.
        seed: Seed of the order of speakers.

    Raises:
        ValueError: The training set has fewer utterances.
    """
    if count > len(records):
        raise ValueError(f"{count} utterances to calibrate with, but training has only {len(records)}")
    speakers: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (record["duration"], record["id"])):
        speakers[record["id"].split("-")[0]].append(record)
    chosen: list[str] = []
    while len(chosen) < count:
        for name in random.Random(seed).sample(sorted(speakers), len(speakers)):
            own = speakers[name]
            if own and len(chosen) < count:
                chosen.append(own.pop(int((len(chosen) + 0.5) / count * len(own)))["id"])
    return sorted(chosen)


def copy_calibration(root: Path, shipped_root: Path, count: int, seed: int) -> None:
    """Replace the folder ``SHIPPED_ROOT/calibration`` by a selection from ``ROOT/train``.

    Raises:
        FileNotFoundError: There is no training set.
        ValueError: The training set is too small.
    """
    manifest = root / "train" / MANIFEST
    if not manifest.is_file():
        raise FileNotFoundError(f"{manifest}: no such file; make the training set first, which it is drawn from")
    records = [json.loads(line) for line in manifest.read_text("utf-8").splitlines()]
    ids = set(choose_calibration(records, count, seed))
    kept = [record for record in records if record["id"] in ids]
    target = shipped_root / CALIBRATION
    shutil.rmtree(target, ignore_errors=True)
    chapters: dict[Path, list[str]] = defaultdict(list)
    for record in kept:
        speaker, chapter, _ = record["id"].split("-")
        place = Path(speaker, chapter)
        (target / place).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / "train" / place / f"{record['id']}.flac", target / place / f"{record['id']}.flac")
        chapters[target / place / f"{speaker}-{chapter}.trans.txt"].append(f"{record['id']} {record['text'].upper()}\n")
    for path, lines in chapters.items():
        path.write_text("".join(sorted(lines)), "utf-8")
    (target / MANIFEST).write_text("".join(f"{json.dumps(record)}\n" for record in kept), "utf-8")
