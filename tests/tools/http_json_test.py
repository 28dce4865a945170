"""The JSON client against a server that fails in every way: bounded in time and bytes, never redirected."""

import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest

from arft_jax.testing.fault_server import WELL, FaultServer
from arft_jax.tools.call import Call, Cancelled, Fault
from arft_jax.tools.http_json import JsonClient, parse_url

ASK = {"queries": ["red fox"], "topk": 1}
SLACK_S = 1.0  # a busy machine
OVER = (1 << 20) + 1  # more than a body may have, no more than may be sent with its head


@pytest.fixture(scope="module")
def server():
    with FaultServer() as server:
        yield server


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    left = [t.name for t in set(threading.enumerate()) - before if not t.name.startswith("Thread-")]  # the server's
    assert not left


def timed(client, deadline_s=0.4):
    """(the fault of a question, its seconds)."""
    started = time.monotonic()
    with pytest.raises(Fault) as fault:
        client.post(ASK, Call(deadline_s))
    return fault.value, time.monotonic() - started


def test_a_well_server_is_understood(server):
    server.set_mode(WELL)
    reply = JsonClient(server.url).post(ASK, Call(5.0))
    assert reply["result"][0][0]["document"]["contents"] == '"Page 0"\nAbout red fox.'


@pytest.mark.parametrize("mode", ["black_hole", "unreachable", "drip"])
def test_a_server_that_never_finishes_costs_the_deadline_and_no_more(server, mode):
    server.set_mode(mode)
    fault, seconds = timed(JsonClient(server.url))
    assert str(fault) == "no reply in time" and fault.retry
    assert 0.35 < seconds < 0.4 + SLACK_S


def test_one_address_is_given_its_own_time(server):
    server.set_mode("unreachable")
    fault, seconds = timed(JsonClient(server.url, connect_s=0.2), deadline_s=30.0)
    assert str(fault) == "no reply in time" and 0.15 < seconds < 0.2 + SLACK_S


@pytest.mark.parametrize(
    ("mode", "text", "retry"),
    [
        ("refused", "ConnectionRefusedError", True),
        ("storm_503", "status 503", True),
        ("garbage", "a reply that is no JSON (UnicodeDecodeError)", True),
        ("cut_off", "a reply that ends 487 bytes too early", True),
        ("redirect", "status 302: redirects are not followed", False),
    ],
)
def test_a_bad_reply_is_a_fault_at_once(server, mode, text, retry):
    server.set_mode(mode)
    fault, seconds = timed(JsonClient(server.url), deadline_s=30.0)
    assert text in str(fault) and fault.retry is retry and seconds < SLACK_S
    assert server.n_trapped == 0, "the redirect was followed"


def test_a_reply_of_a_gigabyte_is_not_read(server):
    server.set_mode("huge")
    fault, seconds = timed(JsonClient(server.url, max_bytes=1 << 20), deadline_s=30.0)
    assert str(fault) == "a reply of more than 1048576 bytes" and seconds < SLACK_S
    time.sleep(0.1)
    assert server.max_sent_bytes < 32 << 20  # what fits into the kernel's buffers


@pytest.mark.parametrize("mode", ["black_hole", "unreachable", "drip"])
def test_a_call_that_is_given_up_ends_at_once(server, mode):
    server.set_mode(mode)
    call = Call(60.0)
    timer = threading.Timer(0.1, call.cancel)
    timer.start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        JsonClient(server.url).post(ASK, call)
    timer.join()
    assert time.monotonic() - started < 0.1 + SLACK_S


class Canned:
    """A server that says one thing, bytes as they are, and keeps what it was asked."""

    def __init__(self, reply):
        self.listener, self.reply, self.heard = socket.create_server(("127.0.0.1", 0)), reply, b""
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)

    def serve(self):
        client, _ = self.listener.accept()
        with client:
            while b"topk" not in self.heard:
                self.heard += client.recv(65536)
            with contextlib.suppress(OSError):  # hung up on, for saying too much
                client.sendall(self.reply)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.thread.join(5)
        self.listener.close()


def ok(body, headers=b""):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s" % (len(body), headers, body)


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (b"", "RemoteDisconnected"),
        (b"SSH-2.0-OpenSSH_9\r\n", "BadStatusLine"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "IncompleteRead"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n", "a reply of more than 1048576 bytes"),
        (b"HTTP/1.1 200 OK\r\nX: %s\r\n\r\n" % (b"y" * 70_000), "LineTooLong"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", "more than 100 headers"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % OVER + b" " * OVER + b"\r\n0\r\n\r\n",
            "more than 1048576 bytes",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n" + b"X: y\r\n" * 300_000,
            "more than 1048576",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 60_000, "more than 1048576 bytes"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "status 204"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "status 404"),
        (ok(b"{}", b"Content-Encoding: gzip\r\n"), "compressed"),
        (ok(b"[NaN]"), "no JSON"),
        (ok(b"[" * 100_000), "no JSON"),
        (ok(b"[" + b"9" * 5000 + b"]"), "no JSON"),
        (ok('"\u00e9"'.encode("utf-16")), "no JSON"),
    ],
)
def test_what_is_no_plain_json_reply_is_a_fault(reply, text):
    with Canned(reply) as canned:
        with pytest.raises(Fault, match=text):
            JsonClient(f"http://127.0.0.1:{canned.port}/").post(ASK, Call(10.0))


def test_a_server_may_ask_to_be_left_alone():
    for header, seconds in ((b"7", 7.0), (b"Fri, 31 Dec 1999 23:59:59 GMT", 0.0), (b"99999999", 0.0)):
        with Canned(b"HTTP/1.1 429 X\r\nRetry-After: %s\r\nContent-Length: 0\r\n\r\n" % header) as canned:
            with pytest.raises(Fault, match="status 429") as fault:
                JsonClient(f"http://127.0.0.1:{canned.port}/").post(ASK, Call(10.0))
            assert fault.value.retry and fault.value.after_s == seconds


def test_what_is_sent():
    with Canned(ok(b"[]")) as canned:
        client = JsonClient(f"http://127.0.0.1:{canned.port}/a/b?c=d", {"X-API-KEY": "s3cret"})
        assert client.post({"q": "naïve \ud800\r\n", "topk": 1}, Call(10.0)) == []
    head, _, body = canned.heard.partition(b"\r\n\r\n")
    lines = head.decode("ascii").split("\r\n")
    assert lines[0] == "POST /a/b?c=d HTTP/1.1" and f"Host: 127.0.0.1:{canned.port}" in lines
    assert {"X-API-KEY: s3cret", f"Content-Length: {len(body)}", "Connection: close"} <= set(lines)
    assert json.loads(body) == {"q": "naïve \ud800\r\n", "topk": 1}


def test_a_name_is_looked_up_and_an_unknown_one_is_a_fault(server):
    server.set_mode(WELL)
    client = JsonClient(server.url.replace("127.0.0.1", "localhost"))
    for _ in range(2):  # the second time from memory
        assert client.post(ASK, Call(10.0))["result"]
    fault, _ = timed(JsonClient("http://no-such-host.invalid/"), deadline_s=30.0)
    assert "no address of no-such-host.invalid" in str(fault)


def test_a_look_up_that_hangs_ends_with_the_call(monkeypatch):
    monkeypatch.setattr("arft_jax.tools.http_json._LOOK_UP", "import time; time.sleep(60)")
    client = JsonClient("http://slow-name.invalid/")
    fault, seconds = timed(client)
    assert "no address of slow-name.invalid in time" in str(fault) and seconds < 0.4 + SLACK_S
    call = Call(60.0)
    timer = threading.Timer(0.1, call.cancel)
    timer.start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        client.post(ASK, call)
    timer.join()
    assert time.monotonic() - started < 0.1 + SLACK_S


def test_tls_is_tried_and_a_server_without_it_is_a_fault(server):
    server.set_mode(WELL)
    fault, seconds = timed(JsonClient(server.url.replace("http:", "https:")), deadline_s=1.0)
    assert seconds < 1.0 + SLACK_S and ("SSL" in str(fault) or "in time" in str(fault))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """(certificate file, key file) of localhost, signed by itself."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost".split()
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


@pytest.fixture
def tls_server(certificate):
    """A port of localhost behind TLS that answers each path as it is named."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    release, listener = threading.Event(), socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with contextlib.suppress(OSError), context.wrap_socket(client, server_side=True) as secure:
                    if b"/well" in secure.recv(65536):
                        secure.sendall(ok(b"[1]"))
                    else:
                        release.wait(30)

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"https://localhost:{listener.getsockname()[1]}"
    release.set()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def test_over_tls_a_call_is_answered_bounded_and_ended_alike(certificate, tls_server, monkeypatch):
    trusting = ssl.create_default_context(cafile=certificate[0])
    monkeypatch.setattr(ssl, "create_default_context", lambda: trusting)
    assert JsonClient(f"{tls_server}/well").post(ASK, Call(10.0)) == [1]
    call = Call(60.0)
    timer = threading.Timer(0.3, call.cancel)
    timer.start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        JsonClient(f"{tls_server}/silent").post(ASK, call)
    assert time.monotonic() - started < 0.3 + SLACK_S
    timer.join()


def test_over_tls_silence_costs_the_deadline(certificate, tls_server, monkeypatch):
    trusting = ssl.create_default_context(cafile=certificate[0])
    monkeypatch.setattr(ssl, "create_default_context", lambda: trusting)
    fault, seconds = timed(JsonClient(f"{tls_server}/silent"))
    assert str(fault) == "no reply in time" and seconds < 0.4 + SLACK_S


def test_a_certificate_of_an_unknown_issuer_is_not_accepted(tls_server):
    fault, _ = timed(JsonClient(f"{tls_server}/well"), deadline_s=10.0)
    assert "its certificate is not accepted: self-signed certificate" in str(fault) and not fault.retry


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("ftp://host/", "must be http"),
        ("host/retrieve", "must be http"),
        ("http:///x", "must be http"),
        ("http://me:pw@host/", "user or password: got \"one with '@'\""),
        ("http://host/#x", "plain ASCII"),
        ("http://host/a b", "plain ASCII"),
        ("http://h\u00f6st/", "plain ASCII"),
        ("http://host:99999/", "must be a URL"),
        ("http://host:0/", "plain ASCII"),
    ],
)
def test_a_url_that_is_none_is_refused_at_the_door(url, text):
    with pytest.raises(ValueError, match=text) as error:
        parse_url(url)
    assert "(config.tools.search.url)" in str(error.value) and "pw" not in str(error.value)


@pytest.mark.parametrize("value", ["", "a\nInjected: yes", "a b", "k\u00e9y"])
def test_a_header_that_is_none_is_refused_without_being_shown(value):
    with pytest.raises(ValueError, match="the value of X-API-KEY must be printable ASCII") as error:
        JsonClient("http://host/", {"X-API-KEY": value})
    assert "Injected" not in str(error.value)
