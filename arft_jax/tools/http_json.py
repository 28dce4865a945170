"""One JSON question to one HTTP server, with bounds that hold: time in all, bytes in all, no redirects, no proxies.

Why on sockets and http.client: the time-outs of the common clients bound each wait, so a server that sends a
byte a second is never cut off, and none of them can be ended from another thread.

RFC 9110 (status codes, Retry-After), RFC 9112 (framing, left to http.client.HTTPResponse).
"""

import contextlib
import http.client
import io
import ipaddress
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

from arft_jax.tools.call import Call, Cancelled, Fault

_MAX_HEADER_BYTES = 64 << 10
_MAX_ADDRESSES = 4
_ADDRESSES_LAST_S = 300.0
_BUSY = (408, 425, 429, 500, 502, 503, 504)  # another try may find the server well
_LOOK_UP = (
    "import json, socket, sys;"
    "print(json.dumps([[f, a] for f, _, _, _, a in"
    " socket.getaddrinfo(sys.argv[1], int(sys.argv[2]), type=socket.SOCK_STREAM)]))"
)


def parse_url(url: str) -> urllib.parse.SplitResult:
    """Checks a server's address.

    Raises:
      ValueError: not http or https, no host, a user or password, a fragment, or characters that no URL holds.
    """
    problem = ""
    try:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            problem = "must be http://host... or https://host..."
        elif parts.username is not None or parts.password is not None:
            problem = "must carry no user or password"
        elif parts.fragment or not url.isascii() or not url.isprintable() or " " in url or parts.port == 0:
            problem = "must be a plain ASCII address without fragment"
    except ValueError as error:  # a port that is no number
        problem = f"must be a URL ({error})"
    if problem:
        shown = url if "@" not in url else "one with '@'"
        raise ValueError(f"the search server's URL {problem}: got {shown!r} (config.tools.search.url)")
    return parts


class Resolver:
    """Host names to addresses, looked up in a process that can be ended: the system's own call cannot be.

    An answer is kept for 300 s, and used longer while the name service does not answer.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int], tuple[float, list]] = {}

    def addresses(self, host: str, port: int, call: Call) -> list[tuple[int, tuple]]:
        """(family, address) of a host, at most 4; raises Fault where it has none."""
        with contextlib.suppress(ValueError):
            family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
            return [(family, (host, port))]
        if not self._lock.acquire(timeout=max(call.left_s, 0.0)):  # one thread asks, the others wait for its answer
            raise Fault(f"no address of {host} in time")
        try:
            due, found = self._known.get((host, port), (0.0, []))
            if time.monotonic() < due:
                return found
            try:
                found = self._look_up(host, port, call)
                self._known[host, port] = (time.monotonic() + _ADDRESSES_LAST_S, found)
            except Fault:
                if not found:
                    raise
            return found
        finally:
            self._lock.release()

    @staticmethod
    def _look_up(host: str, port: int, call: Call) -> list[tuple[int, tuple]]:
        command = [sys.executable, "-I", "-S", "-c", _LOOK_UP, host, str(port)]
        pipes = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        with subprocess.Popen(command, env={}, **pipes) as process, call.ended_by(process.kill):
            try:
                out, _ = process.communicate(timeout=max(call.left_s, 0.0))
            except subprocess.TimeoutExpired:
                process.kill()
                raise Fault(f"no address of {host} in time") from None
        if call.cancelled:
            raise Cancelled
        if process.returncode:
            raise Fault(f"no address of {host}: name not known, or no name service")
        return [(family, tuple(address)) for family, address in json.loads(out)][:_MAX_ADDRESSES]


class _Incoming(io.RawIOBase):
    """What a server sends; every wait is bounded by what the call has left, all bytes together by a cap."""

    def __init__(self, sock: socket.socket, call: Call, max_bytes: int):
        self._sock, self._call, self._max_bytes = sock, call, max_bytes
        self._left = max_bytes + _MAX_HEADER_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        _bound(self._sock, self._call)
        n = self._sock.recv_into(buffer)
        self._left -= n
        if self._left < 0:
            raise Fault(f"a reply of more than {self._max_bytes} bytes")
        return n

    def makefile(self, mode: str) -> io.BufferedReader:
        """What http.client asks of a socket."""
        return io.BufferedReader(self)


def _bound(sock: socket.socket, call: Call, most_s: float = float("inf")) -> None:
    call.check()
    sock.settimeout(max(min(call.left_s, most_s), 1e-3))


def _shut(sock: socket.socket) -> None:
    """Wakes the thread that waits on it. Not ssl's own shutdown, which changes the object under that thread."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class JsonClient:
    """Asks one server; threads share it, each question has its own connection.

    Args:
      url: http or https.
      headers: sent along; values may be secrets, they stand in no error text.
      connect_s: seconds for connecting to one address; above 1, so that one lost packet can be sent again.
      max_bytes: inclusive cap on a reply's body.

    Raises:
      ValueError: a URL or header that HTTP does not allow.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str] | None = None, connect_s: float = 2.0, max_bytes: int = 1 << 20
    ):
        self._url = parse_url(url)
        headers = dict(headers or {})
        for name, value in headers.items():
            if not value or not value.isascii() or not value.isprintable() or " " in value:
                raise ValueError(f"the value of {name} must be printable ASCII without spaces")
        self._tls = self._url.scheme == "https"
        self._port = self._url.port or (443 if self._tls else 80)
        self._context = ssl.create_default_context() if self._tls else None
        self._connect_s, self._max_bytes = connect_s, max_bytes
        self._resolver = Resolver()
        host = f"[{self._url.hostname}]" if ":" in self._url.hostname else self._url.hostname
        path = (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")
        fixed = {
            "Host": host if self._url.port is None else f"{host}:{self._url.port}",
            "User-Agent": "arft_jax",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Connection": "close",
            "Content-Type": "application/json",
        }
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in (fixed | headers).items())]
        self._head = "\r\n".join(lines).encode("ascii")

    def post(self, question: Any, call: Call) -> Any:
        """Sends a JSON value, returns the JSON value that comes back.

        Raises:
          Fault: no such reply, for whatever reason.
          Cancelled: the call was given up.
        """
        body = json.dumps(question).encode("ascii")
        request = self._head + f"\r\nContent-Length: {len(body)}\r\n\r\n".encode("ascii") + body
        try:
            with contextlib.ExitStack() as stack:
                sock = self._connect(call, stack)
                _bound(sock, call)
                sock.sendall(request)
                response = http.client.HTTPResponse(_Incoming(sock, call, self._max_bytes), method="POST")
                stack.callback(response.close)
                response.begin()
                _check_status(response)
                return _parse(self._read(response))
        except TimeoutError:
            raise Cancelled if call.cancelled else Fault("no reply in time") from None
        except ssl.SSLCertVerificationError as error:
            raise Fault(f"its certificate is not accepted: {error.verify_message}", retry=False) from None
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a malformed chunk length
            raise Cancelled if call.cancelled else Fault(f"{type(error).__name__}: {error}") from None

    def _connect(self, call: Call, stack: contextlib.ExitStack) -> socket.socket:
        addresses = self._resolver.addresses(self._url.hostname, self._port, call)
        for n, (family, address) in enumerate(addresses, start=1):
            sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            stack.enter_context(call.ended_by(lambda sock=sock: _shut(sock)))
            _bound(sock, call, self._connect_s)
            try:
                sock.connect(address)
                break
            except OSError:
                if n == len(addresses):
                    raise
        if not self._tls:
            return sock
        secure = self._context.wrap_socket(sock, server_hostname=self._url.hostname, do_handshake_on_connect=False)
        stack.enter_context(secure)
        stack.enter_context(call.ended_by(lambda: _shut(secure)))
        _bound(secure, call)
        secure.do_handshake()
        return secure

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        if (response.length or 0) > self._max_bytes:
            raise Fault(f"a reply of more than {self._max_bytes} bytes")
        pieces, n = [], 0
        while piece := response.read(64 << 10):
            pieces.append(piece)
            n += len(piece)
            if n > self._max_bytes:
                raise Fault(f"a reply of more than {self._max_bytes} bytes")
        if response.length:
            raise Fault(f"a reply that ends {response.length} bytes too early")
        return b"".join(pieces)


def _check_status(response: http.client.HTTPResponse) -> None:
    status = response.status
    if 300 <= status < 400:
        raise Fault(f"status {status}: redirects are not followed", retry=False)
    if status != 200:
        asked = response.getheader("Retry-After", "").strip()
        after_s = float(asked) if asked.isascii() and asked.isdigit() and len(asked) < 7 else 0.0
        raise Fault(f"status {status}", retry=status in _BUSY, after_s=after_s)
    if response.getheader("Content-Encoding", "identity").lower() != "identity":
        raise Fault("a compressed reply, which was not asked for")


def _parse(body: bytes) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON number")

    try:
        return json.loads(body.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise Fault(f"a reply that is no JSON ({type(error).__name__})") from None
