import shutil
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch

from shrinkml_env.data import SHIPPED_SETS, SpeechFolder, Utterance, download_librispeech, load_utterances
from tests.helpers.speech import LIBRISPEECH


@pytest.fixture
def corpus(tmp_path):
    """Three speakers with 4, 2 and 1 utterances of 0.1 s and more."""
    for speaker, count in ((7, 4), (12, 2), (100, 1)):
        chapter = tmp_path / "LibriSpeech" / "dev-tiny" / str(speaker) / "5"
        chapter.mkdir(parents=True)
        lines = []
        for number in range(count):
            name = f"{speaker}-5-{number:04d}"
            samples = np.full(1600 + 100 * number, 0.25, dtype=np.float32)
            soundfile.write(chapter / f"{name}.flac", samples, 16_000)
            lines.append(f"{name} SPEAKER {speaker} LINE {number}")
        (chapter / f"{speaker}-5.trans.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.parametrize("inner", ["", "LibriSpeech"])
def test_reads_either_root(corpus, inner):
    folder = SpeechFolder(corpus / inner, "dev-tiny")
    assert len(folder) == 7
    assert folder.num_samples[0] == 1600
    first = next(utterance for utterance in folder if utterance.id == "7-5-0001")
    assert (first.speaker, first.text) == ("7", "SPEAKER 7 LINE 1")
    assert first.waveform.dtype == torch.float32
    assert first.waveform.shape == (1700,)
    assert torch.allclose(first.waveform, torch.tensor(0.25), atol=1e-4)


def test_limit_goes_round_the_speakers(corpus):
    speakers = Counter(u.speaker for u in SpeechFolder(corpus, "dev-tiny", limit=5))
    assert speakers == {"7": 2, "12": 2, "100": 1}


def test_mapping_and_sequence_specifications(corpus):
    spec = {"root": str(corpus), "subset": "dev-tiny", "limit": 3}
    utterances = load_utterances(spec)
    assert [u.id for u in utterances] == ["100-5-0000", "12-5-0000", "7-5-0000"]
    assert load_utterances(utterances) == utterances


def test_ids_from_a_file(corpus, tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text("7-5-0003\n12-5-0000\n")
    spec = {"root": str(corpus), "subset": "dev-tiny", "ids": str(ids)}
    assert [u.id for u in load_utterances(spec)] == ["12-5-0000", "7-5-0003"]
    ids.write_text("7-5-0003\n7-5-0009\n")
    with pytest.raises(ValueError, match=r"ids\.txt: utterance '7-5-0009' is not in"):
        load_utterances(spec)
    ids.write_text("")
    with pytest.raises(ValueError, match=r"ids\.txt: it is empty"):
        load_utterances(spec)


def test_errors_name_what_is_wrong(corpus):
    with pytest.raises(FileNotFoundError, match="dev-other"):
        SpeechFolder(corpus, "dev-other")
    with pytest.raises(ValueError, match="no utterance set is named 'prox'"):
        load_utterances("prox")
    with pytest.raises(ValueError, match="root and subset"):
        load_utterances({"root": str(corpus), "folder": "dev-tiny"})
    with pytest.raises(ValueError, match="at least one utterance"):
        load_utterances([])
    chapter = corpus / "LibriSpeech" / "dev-tiny" / "12" / "5"
    (chapter / "12-5-0001.flac").write_bytes(b"no audio")
    with pytest.raises(ValueError, match=r"12-5-0001\.flac: not a readable audio file"):
        list(SpeechFolder(corpus, "dev-tiny"))
    soundfile.write(chapter / "12-5-0001.flac", np.zeros(800, dtype=np.float32), 8_000)
    with pytest.raises(ValueError, match=r"12-5-0001\.flac: needs mono audio at 16000 Hz"):
        list(SpeechFolder(corpus, "dev-tiny"))
    (chapter / "12-5-0001.flac").unlink()
    with pytest.raises(FileNotFoundError, match=r"12-5-0001\.flac"):
        SpeechFolder(corpus, "dev-tiny")
    (chapter / "12-5.trans.txt").write_text("12-5-0000\n")
    with pytest.raises(ValueError, match=r"12-5\.trans\.txt, line 1"):
        SpeechFolder(corpus, "dev-tiny")


def test_shipped_sets_are_as_large_as_promised_and_disjoint():
    pool, dev, test = (load_utterances(name) for name in ("proxy-pool", "dev", "test"))
    assert len(pool) >= 300
    assert len(dev) >= 200
    assert len(test) >= 500
    texts = [{u.text for u in utterances} for utterances in (pool, dev, test)]
    assert len(set().union(*texts)) == sum(len(set_texts) for set_texts in texts)


def test_default_proxy_set():
    proxy = load_utterances("proxy")
    assert len(proxy) >= 64
    assert sum(len(u.text.split()) for u in proxy) >= 600
    assert {u.id for u in proxy} <= {u.id for u in load_utterances("proxy-pool")}
    assert all(isinstance(u, Utterance) for u in proxy)
    assert "proxy" in SHIPPED_SETS


@pytest.mark.skipif(not LIBRISPEECH.is_dir(), reason=f"the LibriSpeech sample is not in {LIBRISPEECH}")
def test_real_librispeech():
    utterances = load_utterances({"root": str(LIBRISPEECH.parent), "subset": "test-other", "limit": 20})
    assert Counter(u.speaker for u in utterances) == dict.fromkeys({u.speaker for u in utterances}, 2)
    assert len({u.speaker for u in utterances}) == 10
    assert all(u.waveform.abs().max() <= 1 and u.duration > 1 for u in utterances)
    assert len(SpeechFolder(LIBRISPEECH, "test-other")) == 100


@pytest.mark.parametrize("spec", [3, [1, 2], None])
def test_what_is_no_set_is_named(spec):
    with pytest.raises(ValueError, match=r"must be a name \(proxy, .*\), a mapping .* or a sequence of Utterance, got"):
        load_utterances(spec)


def test_several_subsets_are_one_set(corpus):
    shutil.copytree(corpus / "LibriSpeech" / "dev-tiny" / "100", corpus / "LibriSpeech" / "dev-more" / "101")
    for path in (corpus / "LibriSpeech" / "dev-more").glob("*/*/*"):
        path.rename(path.with_name(path.name.replace("100-", "101-")))
    (transcript,) = (corpus / "LibriSpeech" / "dev-more").glob("*/*/*.txt")
    transcript.write_text(transcript.read_text().replace("100-", "101-"))
    both = SpeechFolder(corpus, ["dev-tiny", "dev-more"])
    assert both.ids == ("100-5-0000", "101-5-0000", *SpeechFolder(corpus, "dev-tiny").ids[1:])
    assert both.speakers[:2] == ("100", "101")
    assert both[1].text == "SPEAKER 100 LINE 0"
    with pytest.raises(ValueError, match=r"dev-tiny.*100-5-0000\.flac has the same id"):
        SpeechFolder(corpus, ["dev-tiny", "dev-tiny"])
    with pytest.raises(FileNotFoundError, match="dev-none"):
        SpeechFolder(corpus, ["dev-tiny", "dev-none"])


def test_wav_files_and_empty_lines(corpus):
    chapter = corpus / "LibriSpeech" / "dev-tiny" / "100" / "5"
    samples, rate = soundfile.read(chapter / "100-5-0000.flac")
    soundfile.write(chapter / "100-5-0000.wav", samples, rate)
    (chapter / "100-5-0000.flac").unlink()
    transcript = chapter / "100-5.trans.txt"
    transcript.write_text("\ufeff" + transcript.read_text().replace("\n", "\r\n") + "\r\n", encoding="utf-8")
    assert SpeechFolder(corpus, "dev-tiny")[0].text == "SPEAKER 100 LINE 0"


def test_lengths_come_from_headers_that_fit(corpus):
    path = corpus / "LibriSpeech" / "dev-tiny" / "12" / "5" / "12-5-0001.flac"
    soundfile.write(path, np.zeros(800, dtype=np.float32), 44_100)
    with pytest.raises(ValueError, match=r"12-5-0001\.flac: needs mono audio at 16000 Hz, .* at 44100 Hz; ffmpeg"):
        _ = SpeechFolder(corpus, "dev-tiny").num_samples


def test_what_is_there_is_not_downloaded(corpus):
    before = sorted(corpus.rglob("*"))
    download_librispeech(corpus, "dev-tiny")
    download_librispeech(corpus / "LibriSpeech", ["dev-tiny"])
    assert sorted(corpus.rglob("*")) == before
    with pytest.raises(ValueError, match="train-clean-360"):
        download_librispeech(corpus, "dev-none")
