import gc
import hashlib
import multiprocessing
import socket
import sys
from collections import Counter
from multiprocessing.forkserver import ensure_running
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from shrinkml_env.compression import svd
from tests.helpers.processes import forked_instead
from tests.helpers.speech import make_corpus

NOT_THE_LIBRARYS = {Path(__file__).parent / name for name in ("agents", "docs", "experiments", "reliability")}

settings.register_profile("tests", max_examples=30, deadline=None, derandomize=False, print_blob=True)
settings.load_profile("tests")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """The coverage of the library is that of its own tests: measured, Python takes twice as long.

    pytest-cov's marker `no_cover` would do the same, but not in xdist's workers, where one measurement runs in another.
    """
    tracer = sys.gettrace()
    of_coverage = type(tracer).__module__.partition(".")[0] == "coverage"
    if of_coverage and NOT_THE_LIBRARYS & set(item.path.parents):
        sys.settrace(None)
    try:
        return (yield)
    finally:
        if of_coverage:
            sys.settrace(tracer)


def pytest_collection_modifyitems(items):
    """Modules with slow tests come first, so that quick ones are left to share when a worker runs out of tests."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish():
    """Modules are never garbage: the collector need not look at them again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


@pytest.fixture(scope="session", autouse=True)
def forkserver(tmp_path_factory):
    """It hands the environment that it is started in on to all that it forks, so it starts before any test's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("SHRINKML_CACHE", str(tmp_path_factory.mktemp("forkserver") / "evaluations.sqlite"))
        ensure_running()
        yield


@pytest.fixture(scope="session", autouse=True)
def offline():
    """Everything works without a network: a test that looks for one fails, wherever it runs."""
    connect = socket.socket.connect

    def connect_here(self, address):
        assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost"), (
            f"connects to {address}"
        )
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_here)
        yield


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Modules take their weights from torch's global generator, whichever tests ran before."""
    torch.manual_seed(0)


def _content(tensor):
    return tuple(tensor.shape), tensor.dtype, hashlib.sha256(tensor.numpy().tobytes()).digest()


@pytest.fixture(scope="session", autouse=True)
def decomposed_once():
    """The matrices of the embedded model take a second each time; what comes of them is the same."""
    decompose, known = svd.decompose, {}

    def remembered(dense, root, rows):
        if not 2**14 <= dense.numel() <= 2**20:
            return decompose(dense, root, rows)
        key = tuple(part if part is None else _content(part) for part in (dense, root, rows))
        if key not in known:
            known[key] = decompose(dense, root, rows)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(svd, "decompose", remembered)
        yield


@pytest.fixture(autouse=True)
def workers_are_forked(monkeypatch):
    """The library's workers are spawned, and import it for seconds; what they do is the same."""
    monkeypatch.setattr(multiprocessing, "get_context", forked_instead)


@pytest.fixture(autouse=True)
def one_thread():
    """Two busy threads on two busy cores are far slower than one."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    """No test reads measurements that something else has left on this machine."""
    monkeypatch.setenv("SHRINKML_CACHE", str(tmp_path / "evaluations.sqlite"))


@pytest.fixture
def corpus(tmp_path):
    return make_corpus(tmp_path)
