"""The results that are kept with the software are still those that its commands ask for, and those of its pages."""

import importlib
import json
import re
from collections import defaultdict
from pathlib import Path

import pytest

from experiments.common import results
from experiments.common.compose import compose_config
from experiments.studies import reward_study
from shrinkml_env import load_utterances
from shrinkml_env.space.table import Table

pytestmark = pytest.mark.results

TWELVE_PASSES = "retraining training.epochs=12 undistilled=[] ~agents.ppo stepwise.sizes=[]"
PAGES = Path(__file__).parents[3] / "docs" / "results"


def table_rows(printed):
    """The rows of all tables that a study prints, as they would stand in a page."""
    columns = []
    for line in printed.splitlines():
        if re.fullmatch(r"-+( +-+)*", line):
            columns = [match.span() for match in re.finditer("-+", line)]
        elif not line.strip():
            columns = []
        elif columns:
            yield f"| {' | '.join(line[start:end].strip() for start, end in columns)} |"


def test_rows_of_a_printed_table():
    printed = "name   size\n-----  ----\na b     0.5\nc          \n\nname\n----\n   d\n\nfolder: x"
    assert list(table_rows(printed)) == ["| a b | 0.5 |", "| c |  |", "| d |"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "page"),
    [
        ("tradeoff", "without-retraining.md"),
        ("tradeoff comparison=rewards", "without-retraining.md"),
        ("tradeoff comparison=factors", "best-factors.md"),
        ("tradeoff comparison=searched comparison.sizes=[0.5,0.4,0.2]", "best-factors.md"),
        ("tradeoff comparison=levels", "learning.md"),
        ("tradeoff comparison=v1", "learning.md"),
        ("tradeoff comparison=v1_long", "learning.md"),
        ("compensation", "best-factors.md"),
        ("retraining", "with-retraining.md"),
        (f"{TWELVE_PASSES} rules=[] by_hand=[]", "with-retraining.md"),
        (f"{TWELVE_PASSES} sizes=[0.2]", "with-retraining.md"),
        (
            f"{TWELVE_PASSES} ~agents.model_based rules=[closed_form] by_hand=[]"
            ' overrides=["factorisation=pivoting","granularity=matrix"]',
            "with-retraining.md",
        ),
        # Their pages show what is printed in other columns.
        ("tradeoff comparison=factorisations", None),
        ("reward_study", None),
        ("ablation", None),
    ],
)
def test_nothing_is_made_again_and_pages_show_what_is_printed(command, page, tmp_path, monkeypatch, capsys):
    def made_again(*arguments):
        raise AssertionError("a result that is not kept would be made")

    monkeypatch.setattr(results.Workers, "submit", made_again)
    # It measures what the table lacks on the whole of test, and its page shows nothing of that.
    few = Table.load().evaluator().on(load_utterances("test")[:8])
    monkeypatch.setattr(reward_study, "_live_on_test", lambda: few)
    name, *overrides = command.split()
    study = importlib.import_module(f"experiments.studies.{name}")
    study.main.__wrapped__(compose_config(name, [*overrides, f"outputs={tmp_path}"]))
    # Each line behind a table is the beginning of something else.
    printed = capsys.readouterr().out.replace("\ntables and picture:", "\n\ntables and picture:")
    rows = list(table_rows(printed))
    assert rows
    if page is not None:
        assert set(rows) - set((PAGES / page).read_text().splitlines()) == set()


@pytest.mark.slow
def test_kept_results_are_asked_for(monkeypatch, tmp_path):
    """Without them a study begins anew."""
    asked = []

    def submit(self, task):
        asked.append(task)
        raise KeyboardInterrupt

    monkeypatch.setattr(results.Workers, "submit", submit)
    study = importlib.import_module("experiments.studies.tradeoff")
    config = compose_config("tradeoff", ["reuse=false", "comparison=rewards", f"outputs={tmp_path}"])
    with pytest.raises(KeyboardInterrupt):
        study.main.__wrapped__(config)
    assert len(asked) == 1


def rate(records):
    edits, words = (sum(sum(record["result"][name]) for record in records) for name in ("edits", "words"))
    return f"{100 * edits / words:.2f}"


def test_rates_on_real_speech_are_those_of_its_page():
    """Its study needs LibriSpeech to print them: of the first chunk of each test set, and of all where it has all."""
    chunks = defaultdict(list)
    for line in (results.KEPT / "real_speech.jsonl").read_text().splitlines():
        record = json.loads(line)
        if "edits" in record["result"]:
            chunks[tuple(record["cell"].get(name) for name in ("method", "scope", "size", "test"))].append(record)
    alone = {record["cell"]["first"] for records in chunks.values() for record in records if len(records) == 1}
    assert len(alone) == 2  # test sets
    rates = {rate(records) for records in chunks.values()}
    rates |= {rate([record]) for records in chunks.values() for record in records if record["cell"]["first"] in alone}
    rows = [line for line in (PAGES / "whisper.md").read_text().splitlines() if line.startswith("| ")]
    assert len(rates) > 40
    assert all(any(f"| {rate} |" in row for row in rows) for rate in rates)
