from shrinkml_env.evaluation import Ledger, ProgressBar
from tests.helpers.fake_evaluator import FakeEvaluator


def test_shows_count_wer_and_size(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")  # whatever the terminal
    ledger, evaluator, bar = Ledger(), FakeEvaluator(), ProgressBar(total=4)
    ledger.evaluate(evaluator, {"output": 5})
    ledger.subscribe(bar)  # what was before is counted too
    found = ledger.evaluate(evaluator, {"output": 20})
    ledger.evaluate(evaluator, {"output": 20})
    bar.close()
    shown = capsys.readouterr().err
    assert "search:  50%" in shown
    assert "2/4" in shown
    assert f"last: WER {100 * found.wer:.1f} %, size {found.size_ratio:.2f}" in shown
    ledger.evaluate(evaluator, {"output": 30})  # a closed bar shows nothing more
    assert capsys.readouterr().err == ""
