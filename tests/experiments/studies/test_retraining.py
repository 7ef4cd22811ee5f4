import json
from dataclasses import replace

import pytest

from experiments.studies import retraining
from experiments.studies.retraining import DENSE, Trained, Training, averaged, draw, pair_table, table, training_cell


def rows(*arguments):
    return list(table(*arguments).itertuples(index=False, name=None))


def trained(ranks, size, way, edits, dev_wer=0.1):
    """On three test utterances of ten words, in each of which the original makes one error and the seed model nine."""
    untrained = [1, 1, 1] if ranks == DENSE else [9, 9, 9]
    return Trained(
        ranks, size, way, untrained, size, dev_wer, edits, [10, 10, 10], 2_000_000, [each + 1 for each in edits]
    )


RESULTS = [
    trained(DENSE, 1.0, "plain", [1, 1, 1]),
    trained("profile", 0.2, "plain", [6, 6, 6]),
    trained("ppo", 0.2, "plain", [5, 5, 5]),
    trained(DENSE, 1.0, "distilled", [0, 0, 0]),
    trained("profile", 0.2, "distilled", [3, 3, 3]),
    trained("uniform", 0.2, "distilled", [2, 2, 2], dev_wer=0.2),
    trained("ppo", 0.2, "distilled", [2, 2, 2]),
    trained("profile in steps", 0.2, "distilled", [4, 4, 4]),
]


def test_every_training_beside_the_others():
    found = rows(RESULTS, [1, 1, 1], ["profile", "uniform"])
    assert len(found) == len(RESULTS)
    assert found[0][:8] == ("1", "dense", "plain", "1.000", "10.00", "10.00", "10.00", "+0.00 (+0.00)")
    assert found[0][8:] == ("", "", "2.00", "20.00")
    by_hand, other_rule, ppo, stepwise = found[4:]
    # Dev chooses who is best by hand, though the other rule is better on test.
    assert by_hand[1] == "profile (by hand)"
    assert other_rule[1] == "uniform"
    assert by_hand[4:] == (
        *("90.00", "10.00", "30.00", "+20.00 (+20.00)", "+30.00 [+30.00, +30.00]", "", "2.00", "40.00"),
    )
    # Compared with what was trained the same way.
    assert ppo[7:10] == ("+10.00 (+10.00)", "+20.00 [+20.00, +20.00]", "-10.00 [-10.00, -10.00]")
    assert stepwise[9] == "+10.00 [+10.00, +10.00]"


def test_what_differs_in_one_thing_is_paired():
    assert list(pair_table(RESULTS).itertuples(index=False, name=None)) == [
        ("1", "", "dense distilled", "dense plain", "-10.00 [-10.00, -10.00]"),
        ("0.2", "", "profile distilled", "profile plain", "-30.00 [-30.00, -30.00]"),
        ("0.2", "", "ppo distilled", "ppo plain", "-30.00 [-30.00, -30.00]"),
        ("0.2", "distilled", "profile in steps", "profile", "+10.00 [+10.00, +10.00]"),
    ]


def test_seeds_are_averaged():
    one = averaged([RESULTS[1], replace(RESULTS[1], edits=[8, 8, 8], dev_wer=0.3)])
    assert list(one.edits) == [7, 7, 7]
    assert one.dev_wer == pytest.approx(0.2)
    assert rows([RESULTS[0], one], [1, 1, 1], [])[1][6] == "70.00"


def test_a_picture(tmp_path, panels):
    draw(tmp_path / "retraining.png", RESULTS, [1, 1, 1])
    assert min(panels) > 1


def test_a_training_is_the_same_wherever_its_files_lie():
    def key(outputs="a", root="b", ids="b/train/focus.txt", epochs=1):
        train = {"root": root, "subset": "train", "ids": ids}
        config = {"outputs": outputs, "seed_model": f"{outputs}/seed", "data": {"train": train}}
        config["training"] = {"epochs": epochs, "seed": 0}
        return training_cell(Training("profile", 0.2, "plain", config, [1, 2])).key

    assert key(outputs="c", root="d", ids="d/train/focus.txt") == key()
    assert key(ids="b/train/others.txt") != key()
    assert key(epochs=2) != key()


@pytest.mark.slow
def test_the_command_makes_every_model_once(configure_training, tones, tmp_path, capsys):
    speech = f"{{root: {tones.folder.parent}, subset: train}}"
    config = configure_training(
        "retraining",
        *(
            "sizes=[0.6]",
            "undistilled=[0.6]",
            "rules=[uniform]",
            "by_hand=[uniform]",
            "~agents.ppo",
            "~agents.model_based",
        ),
        *(
            "+agents.random=['constraint=clip']",
            "stepwise.rule=uniform",
            "stepwise.sizes=[[0.8,0.6]]",
            "budget=2",
            "training.epochs=1",
        ),
        f"overrides={[f'{name}={speech}' for name in ('proxy', 'dev', 'test')]}",
    )
    retraining.main.__wrapped__(config)
    outputs = tmp_path / "retraining"
    (directory,) = outputs.glob("retraining-*")
    table = (directory / "table.txt").read_text()
    for ranks in ("dense", "uniform (by hand)", "random", "uniform in steps"):
        for way in retraining.WAYS:
            assert sum(f" {ranks} " in line and f" {way} " in line for line in table.splitlines()) >= 1, (ranks, way)
    assert table in capsys.readouterr().out
    lines = (outputs / "results.jsonl").read_text().splitlines(keepends=True)
    assert [json.loads(line)["cell"].get("way") for line in lines].count(None) == 2  # those of the ranks
    assert len(lines) == 2 + 8
    (outputs / "results.jsonl").write_text("".join(lines[:-1]))
    retraining.main.__wrapped__(config)
    assert (outputs / "results.jsonl").read_text() == "".join(lines)
    assert (directory / "table.txt").read_text() == table
    # Just those with distillation, which are there already.
    config.undistilled = []
    retraining.main.__wrapped__(config)
    (other,) = set(outputs.glob("retraining-*")) - {directory}
    assert " plain " not in (other / "table.txt").read_text()
    assert (outputs / "results.jsonl").read_text() == "".join(lines)
