"""Searches that experiment trackers follow, offline."""

import json
import sys

import pytest

from experiments.common.search_run import search
from shrinkml_env.evaluation import read_ledger

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # The warnings are the trackers' own.


def expected(directory):
    """What is logged of each evaluation, from the run's own files: WER, size ratio, the best reward so far."""
    baseline, evaluations = read_ledger(directory / "evaluations.jsonl")
    rewards = [-(one.wer - baseline.wer) - 0.2 * one.size_ratio for one in evaluations]
    return [(one.wer, one.size_ratio, max(rewards[:count])) for count, one in enumerate(evaluations, start=1)]


def test_mlflow(configure, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    directory = search(configure("agent=random", "budget=4", "finalists=1", "logger=mlflow"), "title")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("shrinkml").experiment_id])
    assert (run.info.run_name, run.info.status) == ("title", "FINISHED")
    assert run.data.params["directory"] == str(directory)
    assert run.data.params["agent"] == "RandomSearch(seed=0)"
    for name, values in zip(("wer", "size_ratio", "best_reward"), zip(*expected(directory), strict=True), strict=True):
        points = client.get_metric_history(run.info.run_id, f"evaluation/{name}")
        assert [point.step for point in points] == [1, 2, 3, 4]
        assert [point.value for point in points] == pytest.approx(values)
    record = json.loads((directory / "best.json").read_text())
    assert run.data.metrics["result/size_ratio"] == pytest.approx(record["size_ratio"])
    assert run.data.metrics["result/test_wer"] == pytest.approx(record["sets"]["test"]["wer_after"])


def test_a_failed_search_is_a_failed_run(configure, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setattr("agents.RandomSearch.learn", lambda *arguments, **options: None)
    with pytest.raises(ValueError, match="has measured nothing"):
        search(configure("agent=random", "budget=4", "logger=mlflow"), "title")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("shrinkml").experiment_id])
    assert run.info.status == "FAILED"


def test_wandb(configure, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    directory = search(configure("agent=random", "budget=4", "finalists=1", "logger=wandb"), "title")
    (log,) = directory.glob("wandb/offline-run-*/*.wandb")
    # Values are JSON texts in a file of records.
    content = log.read_bytes()
    assert directory.name.encode() in content
    for name in ("wer", "size_ratio", "best_reward", "count"):
        assert f"evaluation/{name}".encode() in content
    for values in expected(directory):
        for value in values:
            assert json.dumps(value).encode() in content
    record = json.loads((directory / "best.json").read_text())
    assert b"result/test_wer" in content
    assert json.dumps(record["sets"]["test"]["wer_after"]).encode() in content


def test_a_tracker_that_is_not_installed(configure, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"logger=wandb needs the package wandb: pip install .*\[wandb\]"):
        search(configure("budget=4", "logger=wandb"), "title")
    assert not (tmp_path / "outputs").exists()
