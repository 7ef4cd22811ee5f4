import json

import pytest
from omegaconf import OmegaConf

from experiments import leaderboard


def record(test_wer, size, **changes):
    measured = {"wer_before": 0.05, "wer_after": test_wer}
    return {
        "title": "ppo-linear-0",
        "model": "las_small",
        "utterances": {"proxy": "proxy", "dev": "dev", "test": "test"},
        "settings": {"agent": "PPO(gamma=1.0)", "reward": "Linear(size_weight=0.2)", "seed": "0"},
        "evaluations": 200,
        "size_ratio": size,
        "sets": {"proxy": measured, "dev": measured, "test": measured},
        **changes,
    }


def write(folder, **records):
    paths = []
    for name, content in records.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
        paths.append(folder / f"{name}.json")
    return paths


def test_the_page_is_ordered_by_the_score_on_test(tmp_path):
    paths = write(tmp_path, small=record(0.09, 0.3), lossless=record(0.05, 0.45), large=record(0.05, 0.8))
    lines = [line for line in leaderboard.page(paths).splitlines() if line.startswith("| ") and "](" in line]
    # -(e - e0) - 0.2 s: -0.04 - 0.06, -0.09 and -0.16.
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [(row[0], row[5], row[8]) for row in cells] == [
        ("1", "0.450", "-0.0900"),
        ("2", "0.300", "-0.1000"),
        ("3", "0.800", "-0.1600"),
    ]
    assert cells[0][1] == "ppo"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "/tmp/mine"}, "for the model las_small, not /tmp/mine"),
        ({"utterances": {"proxy": "proxy", "dev": "test", "test": "test"}}, "dev is test"),
        ({"utterances": {"proxy": "test", "dev": "dev", "test": "test"}}, "proxy is test"),
        ({"utterances": {"proxy": {"root": "x", "subset": "y"}, "dev": "dev", "test": "test"}}, "shipped sets"),
        (
            {"factorisation": "svdx", "granularity": "layer", "ranks": {}, "params": {"original": 2, "compressed": 1}},
            "no factorisation is named 'svdx'",
        ),
    ],
)
def test_what_is_not_comparable_is_refused(tmp_path, changes, reason):
    (path,) = write(tmp_path, other=record(0.1, 0.5, **changes))
    (refusal,) = leaderboard.refusals(path)
    assert reason in refusal


def test_what_does_not_reproduce_is_refused(tmp_path, monkeypatch):
    (path,) = write(tmp_path, good=record(0.1, 0.5))
    monkeypatch.setattr(leaderboard, "validate_ranks", lambda path: ["sets.test.edits_after: recorded 1, measured 2"])
    assert leaderboard.refusals(path) == ["sets.test.edits_after: recorded 1, measured 2"]


def test_links_lead_from_the_page_to_the_submissions(tmp_path):
    paths = write(tmp_path, one=record(0.1, 0.5))
    assert "[one](leaderboard/one.json)" in leaderboard.page(paths)
    assert "[one](../elsewhere/one.json)" in leaderboard.page(paths, "../elsewhere")


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A leaderboard with one submission, and how to call the command for it."""
    folder = tmp_path / "leaderboard"
    folder.mkdir()
    write(folder, old=record(0.1, 0.5))
    monkeypatch.setattr(leaderboard, "validate_ranks", lambda path: [])
    paths = {"submissions": str(folder), "page": str(tmp_path / "leaderboard.md")}

    def call(*runs):
        return leaderboard.main.__wrapped__(OmegaConf.create({**paths, "add": [str(run) for run in runs]}))

    return folder, call


def test_a_run_is_added_once_it_reproduces(shared, tmp_path):
    folder, call = shared
    run = tmp_path / "ppo-linear-3"
    run.mkdir()
    (run / "best.json").write_text(json.dumps(record(0.06, 0.4, title="ppo-linear-3")))
    call(run)
    assert sorted(path.name for path in folder.iterdir()) == ["old.json", "ppo-linear-3.json"]
    assert "[ppo-linear-3](leaderboard/ppo-linear-3.json)" in (tmp_path / "leaderboard.md").read_text()


@pytest.mark.parametrize("name", ["old", "new"])
def test_a_refused_run_changes_nothing(shared, tmp_path, name):
    folder, call = shared
    before = (folder / "old.json").read_text()
    run = tmp_path / name
    run.mkdir()
    (run / "best.json").write_text(json.dumps(record(0.01, 0.1, model="/tmp/mine")))
    with pytest.raises(SystemExit, match=f"REFUSED {name}: the leaderboard is for the model las_small"):
        call(run)
    with pytest.raises(FileNotFoundError, match=r"is missing: is .* a finished run"):
        call(run, tmp_path / "nowhere")
    assert [path.read_text() for path in folder.iterdir()] == [before]
    assert not (tmp_path / "leaderboard.md").exists()
