import os
import shutil
import struct
import unicodedata
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from shrinkml_env.data import SHIPPED_SETS, SpeechFolder, Utterance, download_librispeech, librispeech, load_utterances
from shrinkml_env.data.librispeech import read_waveform
from shrinkml_env.data.sets import count_utterances
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
    ids.unlink()
    with pytest.raises(FileNotFoundError, match=r"ids\.txt: there is no such file of ids; ids: null takes all"):
        load_utterances(spec)


def test_a_list_of_ids(corpus):
    spec = {"root": str(corpus), "subset": "dev-tiny", "ids": ["7-5-0003", "12-5-0000"]}
    assert [u.id for u in load_utterances(spec)] == ["12-5-0000", "7-5-0003"]
    with pytest.raises(ValueError, match="ids: utterance '7-5-0009' is not in"):
        load_utterances({**spec, "ids": ["7-5-0009"]})
    with pytest.raises(ValueError, match="ids: it is empty"):
        load_utterances({**spec, "ids": []})


def test_errors_name_what_is_wrong(corpus):
    with pytest.raises(FileNotFoundError, match="dev-other"):
        SpeechFolder(corpus, "dev-other")
    with pytest.raises(ValueError, match="no utterance set is named 'prox'"):
        load_utterances("prox")
    with pytest.raises(ValueError, match=r"^dev: no utterance set is named 'prox'"):
        load_utterances("prox", "dev")
    with pytest.raises(FileNotFoundError, match=r"^dev: no subset 'dev-other' in "):
        load_utterances({"root": str(corpus), "subset": "dev-other"}, "dev")
    for use in (load_utterances, count_utterances):
        with pytest.raises(ValueError, match="root of an utterance set must be a path, got None"):
            use({"root": None, "subset": "x"})
        with pytest.raises(ValueError, match="needs the keys root and subset"):
            use({"root": ".", "subset": "x", "id": ["a"]})
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


def test_what_was_unpacked_in_part_is_not_there(tmp_path, monkeypatch):
    def unpack(root, url, download, *, fails):
        chapter = Path(root) / "LibriSpeech" / url / "1" / "2"
        chapter.mkdir(parents=True)
        (chapter / "1-2.trans.txt").write_text("1-2-0000 ONE")
        if fails:
            raise OSError("the connection was lost")

    datasets = SimpleNamespace(LIBRISPEECH=partial(unpack, fails=True))
    monkeypatch.setattr(librispeech, "import_torchaudio", lambda: SimpleNamespace(datasets=datasets))
    with pytest.raises(OSError, match=r"LibriSpeech's dev-clean cannot be fetched into .*: the connection was lost"):
        download_librispeech(tmp_path, "dev-clean")
    assert list(tmp_path.iterdir()) == []
    datasets.LIBRISPEECH = partial(unpack, fails=False)
    download_librispeech(tmp_path, "dev-clean")
    assert (tmp_path / "LibriSpeech" / "dev-clean" / "1" / "2" / "1-2.trans.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["LibriSpeech"]


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        ("proxy-small", 12),
        ("test", 530),
        ({"root": "/nowhere", "subset": "dev-other", "ids": ["a", "b", "c", "a"]}, 3),
        ({"root": "/nowhere", "subset": "dev-other", "ids": ["a", "b", "c"], "limit": 2}, 2),
        ([Utterance("1-1-0001", "1", torch.zeros(800), "one")], 1),
    ],
)
def test_utterances_are_counted_without_their_audio(spec, count):
    assert count_utterances(spec) == count


def test_utterances_of_a_folder_are_counted(corpus):
    spec = {"root": str(corpus), "subset": "dev-tiny"}
    assert count_utterances(spec) == len(load_utterances(spec))


SOUND = 0.1 * np.random.default_rng(0).standard_normal(8000).astype(np.float32)


@pytest.mark.parametrize("form", ["WAV", "WAVEX", "RF64"])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_wav_that_is_cut_off_is_refused(tmp_path, form, subtype, share):
    path = tmp_path / "cut.wav"
    soundfile.write(path, SOUND, 16_000, format=form, subtype=subtype)
    whole = read_waveform(path)
    assert len(whole) == 8000
    with path.open("ab") as file:
        file.write(b"LIST\4\0\0\0INFO")
    assert torch.equal(read_waveform(path), whole)
    size = {"PCM_16": 2, "FLOAT": 4}[subtype]
    header = os.path.getsize(path) - 12 - 8000 * size
    os.truncate(path, header + int(8000 * share) * size)
    with pytest.raises(ValueError, match=rf"cut\.wav: cut off, {(8000 - int(8000 * share)) * size} bytes of its sam"):
        read_waveform(path)


@pytest.mark.parametrize("size", [0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_a_streamed_wav_of_unknown_length_is_whole(tmp_path, size):
    path = tmp_path / "streamed.wav"
    soundfile.write(path, SOUND, 16_000)
    whole, content = read_waveform(path), path.read_bytes()
    assert content[36:40] == b"data"
    unknown = struct.pack("<I", size)
    path.write_bytes(content[:4] + unknown + content[8:40] + unknown + content[44:])
    assert torch.equal(read_waveform(path), whole)


@pytest.mark.parametrize(
    ("suffix", "share"), [("flac", 0.5), ("ogg", 0.5), ("opus", 0.5), ("mp3", 0.5), ("wav", 0.0005)]
)
def test_other_audio_that_is_cut_off_is_refused(tmp_path, suffix, share):
    path = tmp_path / f"cut.{suffix}"
    form = {"opus": {"format": "OGG", "subtype": "OPUS"}}.get(suffix, {"format": suffix.upper()})
    soundfile.write(path, SOUND, 16_000, **form)
    assert len(read_waveform(path)) == 8000
    os.truncate(path, int(os.path.getsize(path) * share))
    with pytest.raises(ValueError, match=rf"cut\.{suffix}: (cut off after|not a readable|holds no sample)"):
        read_waveform(path)


def test_floats_at_the_scale_of_int16(tmp_path):
    path = tmp_path / "loud.wav"
    soundfile.write(path, 32768 * SOUND, 16_000, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"loud\.wav: holds samples as large as \d+, where full scale is 1"):
        read_waveform(path)
    soundfile.write(path, 10 * SOUND, 16_000, subtype="FLOAT")
    assert 1 < read_waveform(path).abs().max() < 6


def test_a_flac_of_unknown_length(tmp_path):
    path = tmp_path / "streamed.flac"
    soundfile.write(path, SOUND, 16_000)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"streamed\.flac: its header does not give its length"):
        read_waveform(path)


def rewrite(chapter, change):
    (transcript,) = chapter.glob("*.trans.txt")
    transcript.write_text(change(transcript.read_text()), encoding="utf-8")


@pytest.mark.parametrize("space", ["\t", " \t ", "\u00a0", "\f", "\u2028", "\x1c"])
def test_any_white_space_separates_words(corpus, space):
    expected = SpeechFolder(corpus, "dev-tiny")
    for chapter in corpus.glob("LibriSpeech/*/*/*"):
        rewrite(chapter, lambda text: text.replace(" ", space))
    found = SpeechFolder(corpus, "dev-tiny")
    assert (found.ids, found.texts) == (expected.ids, expected.texts)


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_any_newline_ends_a_line(corpus, end):
    expected = SpeechFolder(corpus, "dev-tiny").texts
    for transcript in corpus.rglob("*.trans.txt"):
        transcript.write_bytes(transcript.read_text().replace("\n", end).encode())
    assert SpeechFolder(corpus, "dev-tiny").texts == expected


def test_suffixes_of_either_case_and_other_formats(corpus):
    expected = SpeechFolder(corpus, "dev-tiny")
    lengths = expected.num_samples
    forms = {
        ".FLAC": {},
        ".WAV": {},
        ".Ogg": {},
        ".mp3": {"format": "MP3"},
        ".opus": {"format": "OGG", "subtype": "OPUS"},
    }
    paths = sorted(corpus.rglob("*.flac"))
    for path, (suffix, form) in zip(paths, list(forms.items()) * 2, strict=False):
        samples, rate = soundfile.read(path)
        path.unlink()
        soundfile.write(path.with_suffix(suffix), samples, rate, **form)
    for path in corpus.rglob("*.trans.txt"):
        path.rename(path.with_name(path.name.replace("trans.txt", "TRANS.TXT")))
    found = SpeechFolder(corpus, "dev-tiny")
    assert (found.ids, found.texts, found.num_samples) == (expected.ids, expected.texts, lengths)
    assert tuple(len(utterance.waveform) for utterance in found) == lengths


def test_of_two_kinds_the_first_is_read(corpus):
    chapter = corpus / "LibriSpeech" / "dev-tiny" / "100" / "5"
    for suffix in (".wav", ".mp3"):
        soundfile.write(chapter / f"100-5-0000{suffix}", np.zeros(50), 16_000)
    assert SpeechFolder(corpus, "dev-tiny").num_samples[0] == 1600


def test_audio_of_a_kind_that_is_not_read_is_named(corpus):
    chapter = corpus / "LibriSpeech" / "dev-tiny" / "100" / "5"
    (chapter / "100-5-0000.flac").rename(chapter / "100-5-0000.m4a")
    with pytest.raises(FileNotFoundError, match=r"100-5-0000\.m4a: listed in 100-5\.trans\.txt, line 1, but .*\.mp3"):
        SpeechFolder(corpus, "dev-tiny")


def test_hidden_files_and_folders_are_not_looked_at(corpus):
    subset = corpus / "LibriSpeech" / "dev-tiny"
    expected = SpeechFolder(corpus, "dev-tiny").ids
    for path in list(subset.glob("*/*/*")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7Mac OS X")
    for hidden in (".ipynb_checkpoints", "7/.ipynb_checkpoints", ".Trash/5"):
        (subset / hidden).mkdir(parents=True)
        shutil.copy(subset / "7" / "5" / "7-5.trans.txt", subset / hidden / "7-5-checkpoint.trans.txt")
    (subset / ".DS_Store").write_bytes(b"\0")
    (subset / "7" / "README.txt").write_text("speech")
    assert SpeechFolder(corpus, "dev-tiny").ids == expected


@pytest.mark.parametrize("in_names", ["NFC", "NFD"])
@pytest.mark.parametrize("in_lists", ["NFC", "NFD"])
def test_composed_and_decomposed_names_are_one(tmp_path, in_names, in_lists):
    names, lists = (lambda text, form=form: unicodedata.normalize(form, text) for form in (in_names, in_lists))
    chapter = tmp_path / "set" / names("Müller") / "5"
    chapter.mkdir(parents=True)
    soundfile.write(chapter / f"{names('müller-1')}.flac", SOUND, 16_000)
    (chapter / "5.trans.txt").write_text(f"{lists('müller-1')} GRÜN", encoding="utf-8")
    (tmp_path / "ids.txt").write_text(lists("müller-1"), encoding="utf-8-sig")
    found = SpeechFolder(tmp_path, "set", ids=tmp_path / "ids.txt")
    assert (found.ids, found.speakers, len(found[0].waveform)) == (("müller-1",), ("Müller",), 8000)


def test_a_list_of_ids_in_another_encoding(corpus, tmp_path):
    (tmp_path / "ids.txt").write_text("7-5-0000\n", encoding="utf-16")
    with pytest.raises(ValueError, match=r"ids\.txt: not a text in UTF-8"):
        SpeechFolder(corpus, "dev-tiny", ids=tmp_path / "ids.txt")


@pytest.mark.parametrize("limit", [0, -1, 1.5, "abc", True])
def test_a_limit_is_a_whole_number(corpus, limit):
    with pytest.raises(ValueError, match="limit must be a whole number of at least 1, got"):
        SpeechFolder(corpus, "dev-tiny", limit=limit)


def test_a_limit_is_looked_at_before_the_folder():
    with pytest.raises(ValueError, match="limit must be a whole number of at least 1, got 'abc'"):
        load_utterances({"root": "/nowhere", "subset": "speech", "limit": "abc"})
