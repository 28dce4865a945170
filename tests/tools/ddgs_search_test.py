"""DuckDuckGo in a process of its own, with a package of the same name and face in its place."""

import importlib.util
import os
import sys
import textwrap
import threading
import time

import pytest

from arft_jax.tools.call import Call, Cancelled, Fault
from arft_jax.tools.ddgs_search import Ddgs
from arft_jax.tools.remote_search import REQUESTS, open_remote_search
from arft_jax.tools.search_backend import Hit

ASK = REQUESTS["ddgs"]("red fox", 3)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes the package ``ddgs``: the body of ``DDGS.text(self, query, **options)``."""

    def write(body):
        (tmp_path / "ddgs").mkdir(exist_ok=True)
        source = "import os, time\nclass DDGS:\n"
        source += "    def __init__(self, timeout): self.timeout = timeout\n"
        source += "    def __enter__(self): return self\n    def __exit__(self, *_): pass\n"
        source += "    def text(self, query, **options):\n" + textwrap.indent(textwrap.dedent(body), " " * 8)
        (tmp_path / "ddgs" / "__init__.py").write_text(source)

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "ddgs", raising=False)
    return write


def test_results_become_hits_by_rank(package):
    package("""
        rows = [{"title": f"{query} {n}", "href": "https://x/", "body": "\\ud83e\\udd8a", "more": 1} for n in range(9)]
        assert options == {"max_results": 3, "backend": "duckduckgo"} and self.timeout == 19
        return rows[: options["max_results"]]
    """)
    hits = Ddgs().ask(ASK, Call(20.0))
    assert hits == [Hit(f"red fox {n}", "\U0001f98a", 1 / (n + 1), "https://x/") for n in range(3)]


def test_the_process_has_no_secret_of_ours(package, monkeypatch):
    monkeypatch.setenv("SERPER_API_KEY", "very-secret-value")
    monkeypatch.setenv("DDGS_PROXY", "socks5://proxy")
    package('return [{"title": " ".join(sorted(os.environ)), "body": "", "href": ""}]')
    [hit] = Ddgs().ask(ASK, Call(20.0))
    names = set(hit.title.split())
    assert "SERPER_API_KEY" not in names and "DDGS_PROXY" in names
    assert names <= {"PATH", "LANG", "LC_CTYPE", "DDGS_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('raise RuntimeError("No results found.")', "RuntimeError: No results found."),
        ("os._exit(3)", "status 3 and no reply"),
        ("os.kill(os.getpid(), 9)", "status -9 and no reply"),
        ('print("<html>"); return []', "no reply"),
        ('return [{"title": "x", "body": "y" * (1 << 21)}]', "more than 1048576 bytes"),
        ('return [{"title": "x", "body": None}]', "a result that is not"),
        ('return [{"title": "x", "body": "", "href": 3}]', "a result that is not"),
        ('return [{"title": bytearray(4 << 30)}]', "MemoryError"),
    ],
)
def test_whatever_goes_wrong_there_is_a_fault(package, body, text):
    package(body)
    with pytest.raises(Fault, match=text):
        Ddgs().ask(ASK, Call(20.0))


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_search_that_hangs_costs_its_time_and_leaves_no_process(package, tmp_path):
    package(f'open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid())); time.sleep(60)')
    started = time.monotonic()
    with pytest.raises(Fault, match="no reply in time"):
        Ddgs().ask(ASK, Call(1.5))
    assert 1.4 < time.monotonic() - started < 4
    assert not alive(int((tmp_path / "pid").read_text()))


def test_a_search_that_is_given_up_ends_at_once(package):
    package("time.sleep(60)")
    call = Call(60.0)
    timer = threading.Timer(0.3, call.cancel)
    timer.start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        Ddgs().ask(ASK, call)
    timer.join()
    assert time.monotonic() - started < 2


def test_without_the_package_the_error_names_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package ddgs: pip install 'arft_jax\[search\]'"):
        with open_remote_search("ddgs"):
            pass


def test_the_installed_package_has_the_face_that_is_used():
    ddgs = pytest.importorskip("ddgs")
    with ddgs.DDGS(timeout=1) as engine:
        assert callable(engine.text)
    from ddgs.engines import ENGINES

    assert "duckduckgo" in ENGINES["text"]
