"""The results that are kept beside docs/results are still those that its commands ask for, and those of its pages."""

import importlib
import re
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize

TWELVE_PASSES = "retraining training.epochs=12 undistilled=[] ~agents.ppo stepwise.sizes=[]"
RAW = Path("docs/results/raw").absolute()


def table_rows(printed):
    """The rows of all tables that a study prints, as they would stand in a page."""
    columns = []
    for line in printed.splitlines():
        if re.fullmatch(r"-+( +-+)*", line):
            columns = [match.span() for match in re.finditer("-+", line)]
        elif len(line) != (columns[-1][1] if columns else 0):
            columns = []
        elif columns:
            yield f"| {' | '.join(line[start:end].strip() for start, end in columns)} |"


def test_rows_of_a_printed_table():
    printed = "name   size\n-----  ----\na b     0.5\nc          \n\nname\n----\n   d\nfolder: x"
    assert list(table_rows(printed)) == ["| a b | 0.5 |", "| c |  |", "| d |"]


@pytest.mark.parametrize(
    ("command", "page"),
    [
        ("tradeoff", "without-retraining.md"),
        ("tradeoff comparison=rewards", "without-retraining.md"),
        ("retraining", "with-retraining.md"),
        (f"{TWELVE_PASSES} rules=[] by_hand=[]", "with-retraining.md"),
        (f"{TWELVE_PASSES} sizes=[0.2]", "with-retraining.md"),
        # Their pages show what is printed in other columns.
        ("tradeoff comparison=factorisations", None),
        ("reward_study", None),
        ("ablation", None),
    ],
)
def test_nothing_is_made_again_and_pages_show_what_is_printed(command, page, tmp_path, monkeypatch, capsys):
    name, *overrides = command.split()
    study = importlib.import_module(f"experiments.studies.{name}")
    read = study.results_of

    def results_of(wanted, *options):
        assert [path.name for path in wanted if not path.exists()] == []
        return read(wanted, *options)

    monkeypatch.setattr(study, "results_of", results_of)
    for folder in RAW.glob(f"{name}-*"):
        shutil.copytree(folder, tmp_path / folder.name)
    with initialize(version_base="1.3", config_path="../../../conf"):
        config = compose(name, [*overrides, f"outputs={tmp_path}"])
    study.main.__wrapped__(config)
    printed = list(table_rows(capsys.readouterr().out))
    assert printed
    if page is not None:
        assert set(printed) - set((RAW.parent / page).read_text().splitlines()) == set()
