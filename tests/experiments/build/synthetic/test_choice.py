"""Choosing and copying the calibration set."""

import json

import pytest

from experiments.build.synthetic.choice import choose_calibration, copy_calibration
from shrinkml_env.data import SpeechFolder, load_utterances

RECORDS = [
    {"id": f"{speaker}-{speaker}00-{number:04d}", "duration": 1.0 + number / 10}
    for speaker in (7, 8, 9)
    for number in range(20)
]


def test_speakers_take_turns_and_durations_are_spread():
    ids = choose_calibration(RECORDS, 6, 0)
    assert sorted(name[0] for name in ids) == ["7", "7", "8", "8", "9", "9"]
    durations = sorted(record["duration"] for record in RECORDS if record["id"] in ids)
    # Quantiles 1/12, 3/12, ... of 20 utterances, of which a speaker's second turn finds 19.
    assert durations == pytest.approx([1.1, 1.5, 1.8, 2.1, 2.4, 2.7], abs=0.11)
    assert choose_calibration(RECORDS[::-1], 6, 0) == ids
    assert choose_calibration(RECORDS, 6, 1) != ids


def test_all_may_be_chosen_but_no_more():
    assert choose_calibration(RECORDS, 60, 0) == [record["id"] for record in RECORDS]
    with pytest.raises(ValueError, match="training has only 60"):
        choose_calibration(RECORDS, 61, 0)


def test_what_is_copied_replaces_what_was_there(corpus, tmp_path):
    manifest = [
        {"id": utterance.id, "duration": utterance.duration, "text": utterance.text.lower()} for utterance in corpus
    ]
    (tmp_path / "train" / "manifest.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in manifest))
    for count in 5, 4:
        copy_calibration(tmp_path, tmp_path / "shipped", count, 0)
    copied = SpeechFolder(tmp_path / "shipped", "calibration")
    originals = {utterance.id: utterance for utterance in corpus}
    assert len(copied) == 4
    for utterance in copied:
        assert utterance.text == originals[utterance.id].text
        assert utterance.waveform.equal(originals[utterance.id].waveform)
    assert len(list((tmp_path / "shipped").rglob("*.flac"))) == 4
    assert len((tmp_path / "shipped" / "calibration" / "manifest.jsonl").read_text().splitlines()) == 4
    with pytest.raises(FileNotFoundError, match="make the training set first"):
        copy_calibration(tmp_path / "nowhere", tmp_path, 3, 0)


@pytest.mark.slow
def test_the_shipped_set_is_training_speech():
    calibration = load_utterances("calibration")
    assert len({utterance.speaker for utterance in calibration}) == len(calibration) == 80
    others = {u.text for name in ("proxy-pool", "dev", "test") for u in load_utterances(name)}
    assert not others & {utterance.text for utterance in calibration}
    speakers = {u.speaker for u in load_utterances("dev")}
    assert not speakers & {utterance.speaker for utterance in calibration}
