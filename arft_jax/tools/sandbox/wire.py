"""What broker, worker and child agree on: exit codes, and messages of one JSON header and one blob each."""

import json
import os
import socket
import struct
from collections.abc import Sequence

EXIT_ERROR, EXIT_MEMORY = 1, 77  # of a child: an exception, a MemoryError
READY = b"\x01"  # first byte that a child notes: its limits hold, the code starts
REPLAYED = b"\x02"  # the next one, in a session: its earlier code ran to the end
MAX_NOTE_CHARS = 400  # of an exception's description

_FRAME = struct.Struct("<II")  # lengths in bytes of header and blob


def send(sock: socket.socket, header: dict, blob: bytes = b"", fds: Sequence[int] = ()) -> None:
    """Sends one message, descriptors with its first byte; blocks while the peer's buffer is full."""
    head = json.dumps(header).encode("ascii")
    frame = _FRAME.pack(len(head), len(blob))
    if fds:
        socket.send_fds(sock, [frame[:1]], fds)
        frame = frame[1:]
    sock.sendall(frame + head)
    if blob:
        sock.sendall(blob)


def _receive_exactly(sock: socket.socket, n_bytes: int) -> bytearray:
    data = bytearray(n_bytes)
    view = memoryview(data)
    while view:
        n = sock.recv_into(view)
        if n == 0:
            raise EOFError("the other side closed the socket")
        view = view[n:]
    return data


def receive(sock: socket.socket, max_bytes: int) -> tuple[dict, bytearray]:
    """Receives one message.

    Args:
      sock: a stream socket.
      max_bytes: inclusive cap on the whole message.

    Returns:
      (header, blob).

    Raises:
      EOFError: if the peer is gone, also in the midst of a message.
      ValueError: if the message is longer than ``max_bytes`` or its header is no JSON object.
      TimeoutError: if the socket has a timeout and it passed.
    """
    return _receive_rest(sock, max_bytes, bytearray())


def receive_with_fd(sock: socket.socket, max_bytes: int) -> tuple[dict, int]:
    """As :func:`receive`, of a message without a blob and with one descriptor, which is the caller's from now on.

    Raises:
      ValueError: also if there is no descriptor in it.
    """
    first, fds, _, _ = socket.recv_fds(sock, 1, 1)
    if not first:
        raise EOFError("the other side closed the socket")
    try:
        header, _ = _receive_rest(sock, max_bytes, bytearray(first))
        if not fds:
            raise ValueError("a message must bring a descriptor: got none")
        return header, fds.pop()
    finally:
        for fd in fds:
            os.close(fd)


def _receive_rest(sock: socket.socket, max_bytes: int, begun: bytearray) -> tuple[dict, bytearray]:
    n_head, n_blob = _FRAME.unpack(begun + _receive_exactly(sock, _FRAME.size - len(begun)))
    if n_head + n_blob > max_bytes:
        raise ValueError(f"a message must fit in {max_bytes} bytes: got {n_head + n_blob}")
    header = json.loads(_receive_exactly(sock, n_head))
    if not isinstance(header, dict):
        raise ValueError(f"a message's header must be an object: got {type(header).__name__}")
    return header, _receive_exactly(sock, n_blob)
