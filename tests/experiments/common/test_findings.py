from matplotlib import pyplot as plt

from experiments.common import findings
from experiments.common.findings import Errors, Finding, Reported, best_on_dev, draw, pair_table, table

TEST = ("test-clean", "test-other")


def one(method, edits, seed=0, size=0.8, dev_wer=0.1, scope="encoder"):
    """A configuration with errors in three utterances of ten words; the original makes one error in each."""
    before = Errors([1, 1, 1], [10, 10, 10])
    found = Finding(scope, size, method, seed, {"a": 1}, 0.95, 0.9, 5, dev_wer)
    return Reported(found, dict.fromkeys(TEST, Errors(edits, [10, 10, 10])), dict.fromkeys(TEST, before))


def rows_of(frame):
    return [tuple(row) for row in frame.itertuples(index=False, name=None)]


def test_dev_chooses_among_seeds_and_its_choice_is_reported():
    before = dict.fromkeys(TEST, Errors([1, 1, 1], [10, 10, 10]))
    rows = [
        Reported(None, before, before),
        one("uniform", [4, 4, 4]),
        one("ppo", [3, 3, 3], seed=0, dev_wer=0.09),
        one("ppo", [2, 2, 2], seed=1, dev_wer=0.08),
    ]
    original, uniform, ppo = rows_of(table(rows))
    assert original == ("", "1", "the original", "", "1.000", "1.000", "", *("3", "10.00", "") * 2)
    assert uniform[:7] == ("encoder", "0.8", "uniform", "1", "0.950", "0.900", "10.00")
    assert uniform[7:] == ("3", "40.00", "+30.00 (+30.00)") * 2
    assert (ppo[2:4], ppo[6:]) == (("ppo", "2"), ("8.00", *("3", "20.00", "+10.00 (+10.00)") * 2))


def finding(dev_wer, size_ratio=0.5, seed=0):
    return Finding("whole", 0.5, "ppo", seed, {"a": 1}, size_ratio, 0.5, 5, dev_wer)


def test_the_best_on_dev_is_smaller_among_equals_and_first_among_the_same():
    good, bad = finding(0.1), finding(0.2, size_ratio=0.3)
    assert best_on_dev([bad, good]) is good
    small, alike = finding(0.1, size_ratio=0.4, seed=7), finding(0.1, size_ratio=0.4, seed=3)
    assert best_on_dev([good, small, alike]) is small


def test_what_dev_has_not_measured_is_chosen_only_without_rivals():
    unmeasured, bad = finding(None, size_ratio=0.1), finding(1.5)
    assert best_on_dev([unmeasured, bad]) is bad
    assert best_on_dev([unmeasured]) is unmeasured


def test_methods_are_compared_on_the_same_utterances():
    rows = [one("uniform", [4, 4, 4, 9]), one("ppo", [3, 3, 3], seed=0), one("ppo", [1, 1, 1], seed=1)]
    rows.append(one("ppo", [0, 0, 0], size=0.7))
    (pair,) = rows_of(pair_table(rows, ["uniform", "ppo"]))[1:]
    assert pair[:4] == ("encoder", "0.8", "ppo", "uniform")
    assert pair[4:] == ("-20.00", "-20.00")  # of two seeds
    assert len(rows_of(pair_table(rows, ["nobody"]))) == 0


def test_the_picture_shows_means_on_the_utterances_that_all_have(tmp_path, monkeypatch):
    """The fourth utterance is that of one configuration alone, and of the original."""
    before = Errors([1, 1, 1, 9], [10] * 4)
    rows = [
        Reported(None, dict.fromkeys(TEST, before), dict.fromkeys(TEST, before)),
        one("ppo", [3, 3, 3]),
        one("ppo", [1, 1, 1, 9], seed=1),
        one("ppo", [6, 6, 6], size=0.7),
    ]
    rows[2] = Reported(rows[2].found, dict.fromkeys(TEST, Errors([1, 1, 1, 9], [10] * 4)), rows[2].before)
    drawn = []
    monkeypatch.setattr(findings, "save_figure", lambda figure, path, dpi: drawn.append(figure))
    draw(tmp_path / "picture.png", rows)
    (figure,) = drawn
    for axes in figure.axes:
        line, original = axes.get_lines()
        assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([0.7, 0.8], [60.0, 20.0])
        assert set(original.get_ydata()) == {10.0}
    plt.close(figure)
