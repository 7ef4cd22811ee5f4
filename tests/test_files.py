import errno
import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkml_env import files
from shrinkml_env.files import append_lines, open_arrays, read_lines, write_atomic, written_aside

LINES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n")), max_size=4)


@given(LINES, LINES, st.data())
def test_lines_survive_a_kill_at_any_byte(tmp_path_factory, earlier, later, data):
    path = tmp_path_factory.mktemp("lines") / "file"
    append_lines(path, earlier)
    kept = path.read_bytes()
    append_lines(path, ["killed", "while", "writing"])
    written = path.read_bytes()
    end = data.draw(st.integers(len(kept), len(written)))
    path.write_bytes(written[:end])
    before, torn = read_lines(path)
    assert before[: len(earlier)] == [line.encode() for line in earlier]
    assert b"".join(line + b"\n" for line in before) + torn == written[:end]
    append_lines(path, later)
    assert read_lines(path) == ([*before, *(line.encode() for line in later)], b"")


def test_only_a_file_without_a_line_gets_the_header(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"hea")  # killed while the header was written
    append_lines(path, ["one"], header="header")
    append_lines(path, ["two"], header="header")
    assert path.read_bytes() == b"header\none\ntwo\n"


def test_an_error_names_the_file(tmp_path):
    with pytest.raises(OSError, match="nowhere") as error:
        append_lines(tmp_path / "nowhere" / "file", ["line"])
    assert error.value.errno == errno.ENOENT


def test_what_a_kill_has_left_is_removed_by_the_next_write(tmp_path):
    path = tmp_path / "best.json"
    code = "import os, sys; from shrinkml_env.files import written_aside\n"
    code += "with written_aside(sys.argv[1], 'half'): os.kill(os.getpid(), 9)"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, str(path)], check=False)
        (left,) = tmp_path.iterdir()  # the second process has removed what the first one left
        assert left.name.startswith(".best.json.")
    with written_aside(tmp_path / "other", "of a running process") as aside:
        write_atomic(tmp_path / "other", "whole")
        write_atomic(path, "whole")
        assert sorted(tmp_path.iterdir()) == sorted([path, tmp_path / "other", aside])


def test_two_writers_do_not_disturb_each_other(tmp_path):
    """As processes of two machines that share a disk, which may have the same number."""
    path = tmp_path / "file"
    with written_aside(path, "one") as first, written_aside(path, "two") as second:
        assert (first.read_text(), second.read_text()) == ("one", "two")
        first.replace(path)
        second.replace(path)
    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]


def test_containers_of_one_machine_leave_each_others_files_alone(tmp_path, monkeypatch):
    """Their processes are numbered independently: the other container's process is not seen."""
    with written_aside(tmp_path / "best.json", "of another container") as aside:
        monkeypatch.setattr(files, "_process_namespace", lambda: "1-")
        monkeypatch.setattr(files, "_is_running", lambda process: False)
        write_atomic(tmp_path / "best.json", "whole")
        assert aside.exists()


def test_archives_alone_are_opened_and_nothing_is_unpickled():
    numbers = io.BytesIO()
    np.savez(numbers, a=np.arange(3))
    with open_arrays(numbers.getvalue()) as archive:
        assert archive["a"].tolist() == [0, 1, 2]
    objects = io.BytesIO()
    np.savez(objects, a=np.array([{}], object))
    with open_arrays(objects.getvalue()) as archive, pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        archive["a"]
    single = io.BytesIO()
    np.save(single, np.arange(3))
    for content in (b"", b"text", pickle.dumps([]), single.getvalue()):
        with pytest.raises(ValueError, match=r"^it is no \.npz file$"):
            open_arrays(content)
