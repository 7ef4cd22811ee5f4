"""Files that are complete or not there."""

import os

import pytest

from shrinkml_env.files import write_file


def test_text_and_bytes_replace_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    for content, expected in (("ä\n", b"\xc3\xa4\n"), (b"\x00", b"\x00")):
        write_file(path, content)
        assert path.read_bytes() == expected
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_was_there_stays_where_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_file(path, "before")

    def fail(source, target):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write_file(path, "after")
    assert os.listdir(tmp_path) == ["a.txt"]
    assert path.read_text() == "before"
