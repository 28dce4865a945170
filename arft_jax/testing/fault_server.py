"""A search server on loopback that fails on purpose, in the ways that real ones do.

It speaks the request shape of ``remote_search.HttpRetriever``. What it does may be changed while it runs: that is what
an outage and a recovery look like from outside.
"""

import contextlib
import json
import socket
import threading
import time

FAULTS = ("black_hole", "refused", "storm_503", "half_slow", "garbage", "huge", "redirect")
WELL = "well"
_HUGE_BYTES = 1 << 30


class FaultServer:
    """Listens on a port of its own; use as a context manager.

    Modes: ``well`` answers; ``black_hole`` reads and never answers; ``unreachable`` completes no connection;
    ``refused`` has no listener; ``storm_503``; ``half_slow`` answers every second question only after ``slow_s``;
    ``drip`` sends a header byte every 50 ms for ever; ``garbage`` says 200 and no JSON; ``wrong_shape`` says JSON of
    another kind; ``cut_off`` ends in the middle; ``huge`` sends 1 GB; ``redirect`` points at a private address,
    where a trap counts who comes.

    Attributes:
      port: of 127.0.0.1.
      n_questions: connections that sent a question.
      n_trapped: connections to the private address that redirects point at.
      max_sent_bytes: most bytes that one connection took.
    """

    def __init__(self, slow_s: float = 60.0):
        self.n_questions = self.n_trapped = self.max_sent_bytes = 0
        self._slow_s, self._mode, self._listener, self._filler = slow_s, "", None, []
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._open: set[socket.socket] = set()
        self._trap = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept, args=(self._trap, self._count_trapped))]
        self._threads[0].start()
        with socket.create_server(("127.0.0.1", 0)) as chosen:
            self.port = chosen.getsockname()[1]
        self.set_mode(WELL)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/retrieve"

    def set_mode(self, mode: str) -> None:
        """From now on; connections that are open end with the mode that they began in."""
        self._close_listener()
        self._mode = mode
        if mode == "refused":
            return
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(0 if mode == "unreachable" else 512)
        self._listener = listener
        if mode == "unreachable":  # its queue of one is full: the kernel drops every further SYN
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", self.port))
                self._filler.append(filler)
            return
        self._threads.append(threading.Thread(target=self._accept, args=(listener, self._serve)))
        self._threads[-1].start()

    def _close_listener(self) -> None:
        for filler in self._filler:
            filler.close()
        self._filler.clear()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket, serve) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # closed
                return
            with self._lock:
                self._open.add(client)
            threading.Thread(target=self._guard, args=(client, serve), daemon=True).start()

    def _guard(self, client: socket.socket, serve) -> None:
        with client, contextlib.suppress(OSError):
            serve(client)
        with self._lock:
            self._open.discard(client)

    def _count_trapped(self, client: socket.socket) -> None:
        self.n_trapped += 1

    def _serve(self, client: socket.socket) -> None:
        mode = self._mode
        question = _read(client)
        with self._lock:
            self.n_questions += 1
            number = self.n_questions
        if mode == "black_hole" or (mode == "half_slow" and number % 2):
            if self._ended.wait(self._slow_s if mode == "half_slow" else None):
                return
        if mode == "drip":
            while not self._ended.wait(0.05):
                client.sendall(b"H")
        elif mode == "huge":
            self._send_huge(client)
        elif mode == "cut_off":
            client.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"result": [[')
        else:
            client.sendall(self._reply(mode, question))

    def _reply(self, mode: str, question: dict) -> bytes:
        if mode == "storm_503":
            return _http(503, b"try later")
        if mode == "redirect":
            return _http(302, b"", f"Location: http://127.0.0.1:{self._trap.getsockname()[1]}/latest/meta-data/\r\n")
        if mode == "garbage":
            return _http(200, b"<html>\xff\xfe captive portal</html>")
        if mode == "wrong_shape":
            return _http(200, b'{"result": {"documents": 3}}')
        return _http(200, json.dumps({"result": [answer(question["queries"][0], question["topk"])]}).encode())

    def _send_huge(self, client: socket.socket) -> None:
        piece, sent = b" " * (1 << 16), 0
        client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while sent < _HUGE_BYTES and not self._ended.is_set():
                client.sendall(b"10000\r\n" + piece + b"\r\n")
                sent += len(piece)
        finally:
            with self._lock:
                self.max_sent_bytes = max(self.max_sent_bytes, sent)

    def close(self) -> None:
        """Ends every connection and thread."""
        self._ended.set()
        self._close_listener()
        with contextlib.suppress(OSError):
            self._trap.shutdown(socket.SHUT_RDWR)
        self._trap.close()
        with self._lock:
            still_open = list(self._open)
        for client in still_open:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        ends = time.monotonic() + 5
        while self._open and time.monotonic() < ends:
            time.sleep(0.01)

    def __enter__(self) -> "FaultServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def answer(query: str, top_k: int) -> list[dict]:
    """What the well server finds: passages that name the query."""
    return [
        {"document": {"id": str(n), "contents": f'"Page {n}"\nAbout {query}.'}, "score": 1.0 / (n + 1)}
        for n in range(top_k)
    ]


def _http(status: int, body: bytes, headers: str = "") -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _read(client: socket.socket) -> dict:
    """The JSON body of a request."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(65536)
        if not piece:
            raise ConnectionError
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    [length] = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while len(body) < length:
        piece = client.recv(65536)
        if not piece:
            raise ConnectionError
        body += piece
    return json.loads(body)
