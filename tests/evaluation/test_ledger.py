import copy
import json
import pickle
import threading
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkml_env.evaluation import BudgetExhausted, Ledger, read_ledger
from tests.helpers.fake_evaluator import LAYERS, FakeEvaluator
from tests.helpers.processes import FORKED

RUN = [{"output": rank} for rank in (5, 10, 5, 20, 39, 10)]  # four unique configurations


def play(ledger: Ledger, evaluator: FakeEvaluator, run=RUN):
    return [ledger.evaluate(evaluator, ranks) for ranks in run]


def test_counts_unique_configurations_in_order():
    ledger, evaluator = Ledger(), FakeEvaluator()
    results = play(ledger, evaluator)
    assert ledger.count == 4
    assert [evaluation.ranks["output"] for evaluation in ledger.evaluations] == [5, 10, 20, 39]
    assert len(evaluator.measured) == 4
    assert results == [FakeEvaluator().evaluate(ranks) for ranks in RUN]


def test_one_spelling_for_one_configuration():
    ledger, evaluator = Ledger(), FakeEvaluator()
    # 100 x 64 breaks even at 39, so 40..64 are all dense, which is also what is meant by leaving it out.
    play(ledger, evaluator, [{"output": 40}, {"output": 64}, {}, {"bridge": 9}, {"gate": 1}])
    assert ledger.count == 1


@pytest.mark.parametrize("ranks", [{"nowhere": 1}, {"output": 0}, {"output": 65}, {"output": 1.5}])
def test_unknown_layer_or_rank(ranks):
    ledger = Ledger(budget=0)
    with pytest.raises(ValueError, match=r"nowhere|'output'"):
        ledger.evaluate(FakeEvaluator(), ranks)


def test_budget():
    ledger, evaluator = Ledger(budget=2), FakeEvaluator()
    play(ledger, evaluator, RUN[:3])
    assert ledger.remaining == 0
    assert ledger.spent
    for _ in range(2):
        with pytest.raises(BudgetExhausted, match="budget of 2 unique evaluations"):
            ledger.evaluate(evaluator, {"output": 20})
    assert ledger.evaluate(evaluator, {"output": 10}).ranks["output"] == 10  # repeating is free
    assert (ledger.count, len(evaluator.measured)) == (2, 2)
    with pytest.raises(ValueError, match="budget"):
        Ledger(budget=-1)
    assert not Ledger().spent
    assert not Ledger(budget=1).spent
    assert Ledger(budget=0).spent


def test_file_holds_every_evaluation(tmp_path):
    path = tmp_path / "run" / "evaluations.jsonl"
    ledger, evaluator = Ledger(path), FakeEvaluator()
    ledger.attach(evaluator)
    assert not path.exists()
    play(ledger, evaluator)
    assert read_ledger(path) == (evaluator.baseline, ledger.evaluations)
    assert len(path.read_text().splitlines()) == 5


def test_divergences_are_kept(tmp_path):
    class Diverging(FakeEvaluator):
        def _evaluation(self, ranks):
            return replace(super()._evaluation(ranks), divergence=0.1 + 0.2)

    path, evaluator = tmp_path / "evaluations.jsonl", Diverging()
    ledger = Ledger(path)
    expected = ledger.evaluate(evaluator, {"output": 20})
    assert expected.divergence == 0.1 + 0.2
    assert read_ledger(path) == (evaluator.baseline, (expected,))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_killed_at_any_byte_and_resumed_ends_the_same(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("ledger")
    whole = folder / "whole.jsonl"
    uninterrupted = Ledger(whole, budget=4)
    play(uninterrupted, FakeEvaluator())
    content = whole.read_bytes()

    kept = data.draw(st.integers(0, len(content)))
    path = folder / "killed.jsonl"
    path.write_bytes(content[:kept])
    resumed, evaluator = Ledger(path, budget=4), FakeEvaluator()
    resumed.attach(evaluator)
    assert resumed.count == 0
    assert play(resumed, evaluator) == play(uninterrupted, FakeEvaluator())
    assert resumed.evaluations == uninterrupted.evaluations
    assert path.read_bytes() == content
    assert len(evaluator.measured) == 4 - max(0, content[:kept].count(b"\n") - 1)


def test_reading_leaves_a_torn_file_alone(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    play(Ledger(path), FakeEvaluator())
    torn = path.read_bytes()[:-10]
    path.write_bytes(torn)
    _, evaluations = read_ledger(path)
    assert [evaluation.ranks["output"] for evaluation in evaluations] == [5, 10, 20]
    Ledger(path).attach(FakeEvaluator())
    assert path.read_bytes() == torn


def test_two_ledgers_never_write_one_file(tmp_path):
    path = tmp_path / "new" / "evaluations.jsonl"
    first, evaluator = Ledger(path), FakeEvaluator()
    play(first, evaluator, RUN[:2])
    content = path.read_bytes()
    for second in (Ledger(path, budget=3), pickle.loads(pickle.dumps(first)), copy.deepcopy(first)):
        with pytest.raises(ValueError, match=r"evaluations\.jsonl: another run is writing it"):
            second.evaluate(evaluator, {"output": 20})
    assert path.read_bytes() == content
    first.attach(FakeEvaluator())  # the same one may do so again


def test_a_closed_ledger_lets_others_write_and_takes_up_what_they_wrote(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    first, second = Ledger(path), Ledger(path)
    play(first, FakeEvaluator(), RUN[:2])
    first.close()
    play(second, FakeEvaluator())
    second.close()
    evaluator = FakeEvaluator()
    assert play(first, evaluator) == play(Ledger(), FakeEvaluator())
    assert not evaluator.measured
    assert first.count == 4
    first.close()
    first.close()


def test_what_cannot_be_read_is_not_held(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    path.write_text("hello\n")
    ledger = Ledger(path)
    with pytest.raises(ValueError, match="not a ledger"):
        ledger.attach(FakeEvaluator())
    path.unlink()
    play(Ledger(path), FakeEvaluator())


def hold(path, connection):
    """Measure one configuration, tell so, and wait for ever."""
    ledger = Ledger(path)
    ledger.evaluate(FakeEvaluator(), {"output": 5})
    connection.send("held")
    threading.Event().wait()


@pytest.mark.slow
def test_another_process_holds_the_file_until_it_is_killed(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    here, there = FORKED.Pipe()
    process = FORKED.Process(target=hold, args=(path, there))
    process.start()
    there.close()  # so that the end of the process is the end of the pipe
    assert here.poll(60)
    assert here.recv() == "held"
    with pytest.raises(ValueError, match=r"evaluations\.jsonl: another run is writing it"):
        Ledger(path).attach(FakeEvaluator())
    process.kill()
    process.join()
    evaluator = FakeEvaluator()
    play(Ledger(path), evaluator)
    assert len(evaluator.measured) == 3  # what the other one measured was kept


@pytest.mark.parametrize("content", ["hello", "hello\n", '{"a": 1}\n', "[]\n", '{"format": "other"}\n', "\x00\xff\n"])
def test_foreign_file(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"notes\.txt is not a ledger"):
        Ledger(path).attach(FakeEvaluator())
    with pytest.raises(ValueError, match=r"notes\.txt is not a ledger"):
        read_ledger(path)
    assert path.read_text() == content


def test_file_of_another_model_or_utterance_set(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    play(Ledger(path), FakeEvaluator())
    for other in (FakeEvaluator(base_edits=21), FakeEvaluator(LAYERS[:-1])):
        with pytest.raises(ValueError, match=r"evaluations\.jsonl records another model"):
            Ledger(path).attach(other)
    ledger = Ledger()
    ledger.attach(FakeEvaluator())
    with pytest.raises(ValueError, match="another model"):
        ledger.attach(FakeEvaluator(base_edits=21))


def test_another_model_with_the_same_baseline(tmp_path):
    """As a model that was trained further and makes as many errors as before."""

    class Retrained(FakeEvaluator):
        key = "other weights"

    path = tmp_path / "evaluations.jsonl"
    play(Ledger(path), FakeEvaluator())
    assert Retrained().baseline == FakeEvaluator().baseline
    with pytest.raises(ValueError, match=r"evaluations\.jsonl records another model"):
        Ledger(path).attach(Retrained())
    ledger = Ledger()
    ledger.attach(FakeEvaluator())
    with pytest.raises(ValueError, match="already records another model"):
        ledger.attach(Retrained())


def test_older_format(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    play(Ledger(path), FakeEvaluator())
    first, *rest = path.read_text().splitlines()
    header = json.loads(first)
    del header["key"]
    path.write_text("\n".join([json.dumps({**header, "format": "shrinkml-ledger-1"}), *rest]) + "\n")
    with pytest.raises(ValueError, match=r"evaluations\.jsonl is not a ledger of evaluations \(shrinkml-ledger-2\)"):
        Ledger(path).attach(FakeEvaluator())
    with pytest.raises(ValueError, match=r"evaluations\.jsonl is not a ledger"):
        read_ledger(path)


@pytest.mark.parametrize("damage", ["not json", "{}", "3", "missing layer"])
def test_damaged_line_is_named(tmp_path, damage):
    path = tmp_path / "evaluations.jsonl"
    play(Ledger(path), FakeEvaluator())
    lines = path.read_text().splitlines()
    if damage == "missing layer":
        record = json.loads(lines[2])
        del record["ranks"]["output"]
        damage = json.dumps(record)
    lines[2] = damage
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"evaluations\.jsonl, line 3 is damaged"):
        Ledger(path).attach(FakeEvaluator())


def watched(ledger: Ledger):
    """What the ledger tells from now on: (rank of the output layer, count)."""
    told = []
    ledger.subscribe(lambda evaluation, count: told.append((evaluation.ranks["output"], count)))
    return told


def test_observers_are_told_of_every_new_evaluation_in_order(tmp_path):
    expected = [(5, 1), (10, 2), (20, 3), (39, 4)]
    ledger = Ledger(tmp_path / "evaluations.jsonl", budget=4)
    told, again = watched(ledger), watched(ledger)
    play(ledger, FakeEvaluator())
    with pytest.raises(BudgetExhausted):
        ledger.evaluate(FakeEvaluator(), {"output": 7})
    assert told == again == expected
    ledger.close()
    resumed = Ledger(tmp_path / "evaluations.jsonl")  # answered from the file
    told = watched(resumed)
    resumed.attach(FakeEvaluator())
    assert told == []
    play(resumed, FakeEvaluator())
    assert told == expected


def test_what_is_fetched_beforehand_is_told_when_it_is_asked_for():
    ledger, evaluator = Ledger(), FakeEvaluator()
    told = watched(ledger)
    ledger.prefetch(evaluator, [{"output": 20}, {"output": 5}])
    assert (told, len(evaluator.measured)) == ([], 2)
    play(ledger, evaluator)
    assert told == [(5, 1), (10, 2), (20, 3), (39, 4)]


def test_observers_stay_where_they_are():
    ledger = Ledger()
    told = watched(ledger)
    for other in (copy.deepcopy(ledger), pickle.loads(pickle.dumps(ledger))):
        play(other, FakeEvaluator())
        assert other.count == 4
    assert told == []


def test_an_observer_that_fails_loses_nothing(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    ledger, evaluator = Ledger(path), FakeEvaluator()

    def fail(evaluation, count):
        raise RuntimeError(f"observer of {count}")

    ledger.subscribe(fail)
    for number, rank in enumerate((5, 10), start=1):
        with pytest.raises(RuntimeError, match=f"observer of {number}"):
            ledger.evaluate(evaluator, {"output": rank})
        assert ledger.count == number
        assert read_ledger(path)[1] == ledger.evaluations
    assert ledger.evaluate(evaluator, {"output": 5}) == FakeEvaluator().evaluate({"output": 5})  # known: nobody is told


def test_an_observer_may_ask_the_ledger():
    ledger, evaluator = Ledger(), FakeEvaluator()
    ledger.subscribe(lambda evaluation, count: ledger.evaluate(evaluator, {"output": 1}))
    told = watched(ledger)
    play(ledger, evaluator)
    assert sorted(count for _, count in told) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("attached", [False, True])
def test_kept_in_a_file_from_the_start_or_later(tmp_path, attached):
    path = tmp_path / "run" / "evaluations.jsonl"
    ledger, evaluator = Ledger(), FakeEvaluator()
    if attached:
        play(ledger, evaluator, RUN[:2])
        ledger.prefetch(evaluator, [{"output": 39}])
    ledger.keep_in(path)
    assert ledger.path == path
    if attached:
        assert [evaluation.ranks["output"] for evaluation in read_ledger(path)[1]] == [5, 10, 39]
    play(ledger, evaluator)
    ledger.keep_in(tmp_path / "run" / ".." / "run" / "evaluations.jsonl")  # the same: nothing happens
    baseline, found = read_ledger(path)
    assert baseline == evaluator.baseline
    assert sorted(e.ranks["output"] for e in found) == [5, 10, 20, 39]
    with pytest.raises(ValueError, match=r"evaluations\.jsonl: another run is writing it"):
        Ledger(path).attach(evaluator)
    with pytest.raises(ValueError, match=r"is kept in .*evaluations\.jsonl already"):
        ledger.keep_in(tmp_path / "other.jsonl")


def test_kept_in_a_file_that_holds_some_of_it(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    first = Ledger(path)
    play(first, FakeEvaluator(), [{"output": 10}, {"output": 20}])
    first.close()
    path.write_bytes(path.read_bytes() + b'{"ranks": {"front')  # torn by a kill
    ledger, evaluator = Ledger(budget=4), FakeEvaluator()
    play(ledger, evaluator, RUN[:2])
    ledger.keep_in(path)
    assert ledger.count == 2
    assert [e.ranks["output"] for e in read_ledger(path)[1]] == [10, 20, 5]
    play(ledger, evaluator)
    assert [ranks["output"] for ranks in evaluator.measured] == [5, 10, 39]
    assert ledger.evaluations == tuple(FakeEvaluator().evaluate({"output": rank}) for rank in (5, 10, 20, 39))
    assert [e.ranks["output"] for e in read_ledger(path)[1]] == [10, 20, 5, 39]


def test_a_file_that_cannot_be_used_changes_nothing(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    play(Ledger(path), FakeEvaluator(base_edits=21))
    content = path.read_bytes()
    ledger, evaluator = Ledger(), FakeEvaluator()
    play(ledger, evaluator, RUN[:2])
    with pytest.raises(ValueError, match=r"evaluations\.jsonl records another model"):
        ledger.keep_in(path)
    assert (ledger.path, path.read_bytes()) == (None, content)
    play(ledger, evaluator)
    ledger.keep_in(tmp_path / "own.jsonl")
    assert len(read_ledger(tmp_path / "own.jsonl")[1]) == 4


def test_only_what_can_be_called_observes():
    with pytest.raises(TypeError, match=r"called with \(evaluation, count\), which 5 cannot be"):
        Ledger().subscribe(5)


def test_an_observer_that_has_unsubscribed_is_told_no_more():
    ledger, evaluator = Ledger(), FakeEvaluator()
    told = []

    def observe(evaluation, count):
        told.append(count)
        if count == 2:
            ledger.unsubscribe(observe)

    other = watched(ledger)
    ledger.subscribe(observe)
    play(ledger, evaluator)
    assert told == [1, 2]
    assert [count for _, count in other] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="not in list"):
        ledger.unsubscribe(observe)


def test_paths_that_cannot_be_a_file(tmp_path):
    (tmp_path / "file").touch()
    for path, message in (
        (tmp_path, "must be the name of a file, got the folder"),
        ("", "must be the name of a file, got the folder"),
        (tmp_path / "file" / "ledger", "lies in .*file, which is not a folder"),
    ):
        with pytest.raises(ValueError, match=f"ledger: path {message}|ledger: path .* {message}"):
            Ledger(path)
        with pytest.raises(ValueError, match="ledger: path"):
            Ledger().keep_in(path)
