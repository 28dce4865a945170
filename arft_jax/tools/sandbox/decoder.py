"""The second child: decodes what calls wrote, apart from the calls, the worker and the trainer.

Image decoders are the largest piece of native code that reads untrusted bytes. They run in a process that has no
file, no socket and little memory, and in which no request was ever seen (forker.py). What comes back is pixels in
shared memory and a size, which is checked. The process serves a few images, because a fresh one costs more than the
decoding; it ends at the first file that is no sound image, so what captures it by a broken file goes with it, and as
soon as its images have taken long together, so that none finds its processor time used up by others. Calls never see
its memory.
"""

import dataclasses
import fcntl
import mmap
import os
import select
import signal
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

import numpy as np

from arft_jax.tools.sandbox import confine, decode
from arft_jax.tools.sandbox import limits as limits_lib

UNREADABLE = "The output image could not be read."
TOO_MUCH = "The output images are too large together."
TOO_SLOW = "The output images take too long to read."
MAX_IMAGES = 16  # of one process
_TIMEOUT_S = 10.0  # all images of one call; far below what the broker grants a worker (pool.py)
_FRESH_AFTER_S = 1.0  # a process that has decoded so long in all is replaced
_BASE_BYTES, _BYTES_PER_PX = 64 << 20, 40  # decoders and conversions to RGB, at most
_KEPT_BYTES = 8 << 20  # of shared memory that may stay filled between calls
_N_FDS = 16  # above the descriptors that the process is given
_MAX_FAULT_BYTES = 200
_REQUEST = struct.Struct("<QQ")  # bytes of the file; where its pixels go
_REPLY = struct.Struct("<II")  # height and width, 0 for a fault; the fault's text follows


@dataclasses.dataclass(frozen=True)
class Decoded:
    """One file: the image's size in pixels, or why there is none."""

    height: int = 0
    width: int = 0
    fault: str = ""

    @property
    def n_bytes(self) -> int:
        """Bytes of its pixels, uint8[height, width, 3]."""
        return 3 * self.height * self.width


def copy_pixels(pixels: np.ndarray, shared: mmap.mmap, at: int) -> None:
    """Writes uint8 pixels at an offset, without a copy in between."""
    np.frombuffer(shared, np.uint8, pixels.size, at)[:] = pixels.reshape(-1)


def _decode_one(content: bytes, max_image_px: int, outbox: mmap.mmap, at: int) -> Decoded:
    try:
        image = decode.decode_output(content, max_image_px)
    except decode.BadImage as error:
        return Decoded(fault=str(error))
    result = Decoded(*image.size)
    if at + result.n_bytes > len(outbox):
        return Decoded(fault=TOO_MUCH)
    copy_pixels(image.pixels, outbox, at)
    return result


def run(
    hold: confine.Confinement,
    base_bytes: int,
    max_file_bytes: int,
    max_image_px: int,
    worker_pid: int,
    fds: Sequence[int],
) -> NoReturn:
    """The decoding process: serves until its worker closes the requests; never returns.

    Args:
      hold: what it takes on: no files.
      base_bytes: address space that the worker has mapped.
      max_file_bytes, max_image_px: as in :class:`Decoder`.
      worker_pid: the process whose death ends it.
      fds: requests, replies, and the memory of files and of pixels, shared with the worker.
    """
    try:
        confine.die_with_parent(worker_pid, signal.SIGKILL)
        hold.guard_files()
        request_fd, reply_fd, inbox_fd, outbox_fd = fds
        inbox, outbox = mmap.mmap(inbox_fd, max_file_bytes), mmap.mmap(outbox_fd, 3 * max_image_px)
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, _N_FDS) for fd in (request_fd, reply_fd)]
        os.closerange(0, _N_FDS)
        request_fd, reply_fd = (os.dup2(fd, number) for number, fd in enumerate(high))
        os.closerange(2, 1024)
        extra = _BASE_BYTES + _BYTES_PER_PX * max_image_px + len(inbox) + len(outbox)
        limits = limits_lib.Limits(
            timeout_s=_TIMEOUT_S + _FRESH_AFTER_S,
            memory_bytes=extra,
            max_output_bytes=0,
            max_flood_bytes=0,
            max_file_bytes=0,
            max_scratch_bytes=0,
            max_descriptors=64,
        )
        limits_lib.apply(limits, base_bytes, isolated=False)
        limits_lib.bound_files(0, 0)
        hold.guard_calls()
        while request := os.read(request_fd, _REQUEST.size):
            n_bytes, at = _REQUEST.unpack(request)
            result = _decode_one(inbox[:n_bytes], max_image_px, outbox, at)
            fault = result.fault.encode()[:_MAX_FAULT_BYTES]
            os.write(reply_fd, _REPLY.pack(result.height, result.width) + fault)
    finally:
        os._exit(1)


class _Box:
    """Fresh memory that another process may be given.

    Args:
      n_bytes: its size.
    """

    def __init__(self, n_bytes: int):
        self.fd = os.memfd_create("decoder", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, n_bytes)
        self.memory = mmap.mmap(self.fd, n_bytes)

    def __del__(self):
        os.close(self.fd)


class Decoder:
    """A decoding process, started where one is needed; used by one thread.

    Args:
      fork: has a process forked that does :func:`run` with the descriptors; returns its number.
      max_file_bytes: inclusive cap on the files of one call together.
      max_image_px: inclusive cap on height times width, of each image and of those of one call together.

    Attributes:
      pid: number of the process; 0: none runs.
    """

    def __init__(self, fork: Callable[[Sequence[int]], int], max_file_bytes: int, max_image_px: int):
        self.pid = 0
        self._fork = fork
        self._sizes = max_file_bytes, 3 * max_image_px
        self._boxes: list[_Box] = []  # of files and of pixels
        self._request_fd = self._reply_fd = -1
        self._n_images, self._busy_s = 0, 0.0

    def _start(self) -> None:
        self._boxes = self._boxes or [_Box(n_bytes) for n_bytes in self._sizes]
        request_r, self._request_fd = os.pipe()
        self._reply_fd, reply_w = os.pipe()
        try:
            self.pid = self._fork([request_r, reply_w, *(box.fd for box in self._boxes)])
        finally:
            os.close(request_r)
            os.close(reply_w)
        self._n_images, self._busy_s = 0, 0.0

    def _ask(self, content: bytes, at: int, deadline: float) -> Decoded:
        """One file; the process is taken for captured until its answer has been checked."""
        if not self.pid:
            self._start()
        inbox, outbox = (box.memory for box in self._boxes)
        inbox[: len(content)] = content
        try:
            os.write(self._request_fd, _REQUEST.pack(len(content), at))
        except BrokenPipeError:
            return Decoded(fault=UNREADABLE)
        poller = select.poll()
        poller.register(self._reply_fd, select.POLLIN)
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return Decoded(fault=TOO_SLOW)
        reply = os.read(self._reply_fd, _REPLY.size + _MAX_FAULT_BYTES)
        if len(reply) < _REPLY.size:  # it died
            return Decoded(fault=UNREADABLE)
        height, width = _REPLY.unpack_from(reply)
        fault = reply[_REPLY.size :].decode("utf-8", "replace")
        result = Decoded(height, width)
        is_sound = not fault and 0 < result.n_bytes <= len(outbox) - at
        return result if is_sound else Decoded(fault=fault or UNREADABLE)

    def decode(self, files: Iterable[bytes]) -> tuple[list[Decoded], memoryview]:
        """Decodes the files of one call, one taken after the other, up to the first that is no sound image.

        Args:
          files: contents, each capped in size already.

        Returns:
          (one result for each file that was taken, the last one perhaps a fault; uint8 pixels of the images one behind
          the other, which hold until the next call).
        """
        results, at = [], 0
        deadline = time.monotonic() + _TIMEOUT_S
        for content in files:
            started, n_bytes = time.monotonic(), len(content)
            result = self._ask(content, at, deadline)
            del content  # before the next one is read
            self._n_images += 1
            self._busy_s += time.monotonic() - started
            at += result.n_bytes
            is_large = max(n_bytes, at) > _KEPT_BYTES
            if result.fault or is_large or self._n_images >= MAX_IMAGES or self._busy_s > _FRESH_AFTER_S:
                self.stop()
            results.append(result)
            if result.fault:
                break
        return results, memoryview(self._boxes[1].memory)[:at] if at else memoryview(b"")

    def tidy(self) -> None:
        """Lets go of the memory behind a process that has ended, between two calls."""
        if not self.pid:
            self._boxes = []

    def stop(self) -> None:
        """Ends the process; the next image starts another, and within one call goes on in the same memory."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self._request_fd)
            os.close(self._reply_fd)
            self.pid = 0
