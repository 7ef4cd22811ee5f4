"""The results that are kept with the software are still those that its commands ask for, and those of its pages."""

import importlib
import json
import re
from pathlib import Path

import pytest

from experiments.common import results
from experiments.common.compared import methods_of
from experiments.common.compose import compose_config
from experiments.common.findings import ORIGINAL, Errors, Finding, Reported, pair_table, table
from experiments.studies import real_speech as real_speech_study
from experiments.studies import reward_study
from experiments.studies.proxy_selection import selection_cell
from shrinkml_env import load_model, load_utterances
from shrinkml_env.space.table import Table
from tests.helpers.speech import LIBRISPEECH, WHISPER

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
    ("page", "commands"),
    [
        ("without-retraining.md", ["tradeoff", "tradeoff comparison=rewards"]),
        (
            "best-factors.md",
            [
                "tradeoff comparison=factors",
                "tradeoff comparison=searched",
                "compensation",
            ],
        ),
        ("learning.md", ["tradeoff comparison=levels", "tradeoff comparison=v1", "tradeoff comparison=v1_long"]),
        (
            "with-retraining.md",
            [
                "retraining",
                f"{TWELVE_PASSES} rules=[] by_hand=[]",
                f"{TWELVE_PASSES} sizes=[0.2]",
                f"{TWELVE_PASSES} ~agents.model_based rules=[closed_form] by_hand=[]"
                ' overrides=["factorisation=pivoting","granularity=matrix"]',
            ],
        ),
        (
            "../tabular.md",
            ["transfer train=[las_small,las_small_pivoting] table=whisper_tiny_en rewards=[linear]"],
        ),
        # Their pages show what is printed in other columns.
        (None, ["tradeoff comparison=factorisations", "reward_study", "ablation"]),
    ],
)
def test_nothing_is_made_again_and_pages_show_what_is_printed(page, commands, tmp_path, monkeypatch, capsys):
    def made_again(*arguments):
        raise AssertionError("a result that is not kept would be made")

    monkeypatch.setattr(results.Workers, "submit", made_again)
    # It measures what the table lacks on the whole of test, and its page shows nothing of that.
    few = Table.load().evaluator().on(load_utterances("test")[:8])
    monkeypatch.setattr(reward_study, "_live_on_test", lambda: few)
    rows = set()
    for command in commands:
        name, *overrides = command.split()
        study = importlib.import_module(f"experiments.studies.{name}")
        study.main.__wrapped__(compose_config(name, [*overrides, f"outputs={tmp_path}"]))
        # Each line behind a table is the beginning of something else.
        printed = list(
            table_rows(capsys.readouterr().out.replace("\ntables and pictures:", "\n\ntables and pictures:"))
        )
        assert printed
        rows.update(printed)
    if page is not None:
        shown = set((PAGES / page).read_text().splitlines())
        assert rows - shown == set()
        # Nor does the page show another row of the same size and agent, in a table of as many columns.
        kinds = {kind_of(row) for row in rows}
        assert {row for row in shown if kind_of(row) in kinds} - rows == set()


def kind_of(row):
    """The first two cells of a table's row, and how many there are."""
    cells = row.split(" | ")
    return *cells[:2], len(cells)


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


def real_speech():
    """What is kept of the study on real speech: findings; (test set, chunk) -> what was measured -> errors."""
    found, chunks = [], {}
    for line in (results.KEPT / "real_speech.jsonl").read_text().splitlines():
        record = json.loads(line)
        cell, result = record["cell"], record["result"]
        if "ranks" in result:
            found.append(Finding(**{**result, "method": cell["method"]}))
        elif "edits" in result:
            of_set = chunks.setdefault((cell["test"], cell["first"]), {})
            of_set[cell["method"], cell.get("scope"), cell.get("size"), cell.get("seed", 0)] = Errors(**result)
    return found, chunks


def first_chunks(chunks):
    """Test set -> what was measured -> errors on its first chunk, on which all were measured, few on the others."""
    first = {test: max((len(of), key) for key, of in chunks.items() if key[0] == test)[1] for test, _ in chunks}
    return {test: chunks[key] for test, key in first.items()}


@pytest.mark.slow
@pytest.mark.skipif(
    not (LIBRISPEECH.is_dir() and WHISPER.is_dir()), reason=f"neither {LIBRISPEECH} nor {WHISPER} may be missing"
)
def test_findings_on_real_speech_are_still_those_that_are_asked_for():
    """What is sought on the dev sets needs no speech to be asked for; the page's first command makes nothing again."""
    model = load_model(f"hf:{WHISPER}")
    kept = {
        record["key"]: record["result"]
        for record in map(json.loads, (results.KEPT / "real_speech.jsonl").read_text().splitlines())
    }
    (proxy,) = [result["ids"] for result in kept.values() if "ids" in result]

    def asked(*overrides):
        config = compose_config("real_speech", [f"root={LIBRISPEECH}", *overrides])
        selection = selection_cell(config, model, config.speech, {purpose: {} for purpose in config.speech})
        heard = {"calibration": list(config.speech.calibration), "dev": list(config.speech.dev), "proxy": proxy}
        study = real_speech_study.Study(config, methods_of(config), model, heard)
        return {cell.key for cell in (selection, *study.search_cells())}

    found = {key for key, result in kept.items() if "ranks" in result or "ids" in result}
    seeds = [f"+methods.{name}.seeds=7" for name in ("tpe", "ppo")]
    commands = [
        ["compared=all"],
        ["compared=closed_form", "scopes.encoder.sizes=[0.75]"],
        ["compared=searches", "~scopes.whole", "scopes.encoder.sizes=[0.7]", *seeds],
    ]
    assert found <= set.union(*(asked(*overrides) for overrides in commands))
    assert asked() <= found
    assert asked("compared=model_based") <= found
    assert asked(*commands[-1]) <= found


def test_tables_on_real_speech_are_those_of_their_page():
    """Its study needs LibriSpeech to print them; what is kept is enough to make the tables of the first chunks."""
    found, chunks = real_speech()
    errors = first_chunks(chunks)
    before = {test: of_set[ORIGINAL, None, None, 0] for test, of_set in errors.items()}
    rows = [Reported(None, before, before)]
    for one in found:
        # What several methods or seeds have found alike was measured once, under the name of one of them.
        alike = [(f.method, f.scope, f.size, f.seed) for f in found if (f.scope, f.ranks) == (one.scope, one.ranks)]
        (measured,) = [which for which in alike if all(which in of_set for of_set in errors.values())]
        rows.append(Reported(one, {test: of_set[measured] for test, of_set in errors.items()}, before))
    made = set()
    for scope, size, method, _, ratio, macs, _, _, clean, clean_more, _, other, other_more in table(rows).to_numpy():
        ratios = f"{macs}" if scope == "whole" else f"{ratio} | {macs}"
        if scope:
            made.add(f"| {size} | {method} | {ratios} | {clean} | {clean_more} | {other} | {other_more} |")
    assert len(made) == len({(one.scope, one.size, one.method) for one in found}) >= 40
    rivals = ["lite_asr", "lite_asr, equal thresholds", "uniform, two factors", "uniform", "closed_form"]
    made |= {
        f"| {size} | {method} | {rival} | {clean} | {other} |"
        for _, size, method, rival, clean, other in pair_table(rows, rivals).to_numpy()
    }
    made |= {
        f"| {scope} | {size} | {method} | {rival} | {clean} | {other} |"
        for scope, size, method, rival, clean, other in pair_table(
            rows, ["closed_form", "closed_form, two rounds"]
        ).to_numpy()
    }
    page = (PAGES / "whisper.md").read_text()
    sections = page[page.index("## The encoder alone") : page.index("## Limits")].splitlines()
    assert {line for line in sections if re.match(r"\| (encoder \| |whole \| )?0", line)} - made == set()


def test_the_table_of_complete_test_sets_is_that_of_its_page():
    found, chunks = real_speech()
    original = ORIGINAL, None, None, 0

    def on_whole_sets(which):
        """Test set -> errors on all chunks; None where one is lacking."""
        joined = {test: ([], []) for test, _ in chunks}
        for (test, _), of_chunk in chunks.items():
            if which not in of_chunk:
                return None
            joined[test][0].extend(of_chunk[which].edits)
            joined[test][1].extend(of_chunk[which].words)
        return {test: Errors(*lists) for test, lists in joined.items()}

    before = on_whole_sets(original)
    assert {test: len(errors.edits) for test, errors in before.items()} == {"test-clean": 2620, "test-other": 2939}
    rows = [Reported(None, before, before)]
    for one in found:
        errors = on_whole_sets((one.method, one.scope, one.size, one.seed))
        if errors is not None:
            rows.append(Reported(one, errors, before))
    made = set()
    for scope, size, method, _, ratio, macs, _, _, clean, clean_more, _, other, other_more in table(rows).to_numpy():
        what = f"the {scope} to {size}" if scope else "nothing"
        made.add(f"| {what} | {method} | {ratio} | {macs} | {clean} | {clean_more} | {other} | {other_more} |")
    page = (PAGES / "whisper.md").read_text()
    section = page[page.index("## The original, and complete test sets") : page.index("## The encoder alone")]
    shown = {line for line in section.splitlines() if re.match(r"\| (nothing|the (encoder|whole) to) ", line)}
    assert shown == made
