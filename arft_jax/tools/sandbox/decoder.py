"""The second child: decodes what calls wrote, apart from the calls, the worker and the trainer.

Image decoders are the largest piece of native code that reads untrusted bytes. They run in a process that
has no file, no socket and little memory. What comes back is pixels in shared memory and a size, which is
checked. The process serves a few images, because a fresh one costs more than the decoding; it ends at the
first file that is no sound image, so what captures it by a broken file goes with it, and as soon as its images have
taken long together, so that none finds its processor time used up by others. Calls never see its memory.
"""

import dataclasses
import mmap
import os
import select
import signal
import struct
import time
from collections.abc import Sequence
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
_KEPT_BYTES = 8 << 20  # of shared memory that stays filled between calls
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


class Decoder:
    """A decoding process, started where one is needed; used by one thread.

    Args:
      hold: what the process takes on: no files.
      base_bytes: address space that the worker has mapped.
      max_file_bytes: inclusive cap on a file.
      max_image_px: inclusive cap on height times width, of each image and of those of one call together.
    """

    def __init__(self, hold: confine.Confinement, base_bytes: int, max_file_bytes: int, max_image_px: int):
        self.pid = 0  # 0: none runs
        self._hold = hold
        self._base_bytes = base_bytes
        self._max_image_px = max_image_px
        self._inbox, self._outbox = mmap.mmap(-1, max_file_bytes), mmap.mmap(-1, 3 * max_image_px)
        self._share(False)
        self._request_fd = self._reply_fd = -1
        self._n_images, self._busy_s = 0, 0.0

    def _share(self, with_forks: bool) -> None:
        for box in (self._inbox, self._outbox):
            box.madvise(mmap.MADV_DOFORK if with_forks else mmap.MADV_DONTFORK)

    def _start(self) -> None:
        request_r, self._request_fd = os.pipe()
        self._reply_fd, reply_w = os.pipe()
        worker_pid = os.getpid()
        self._share(True)
        pid = os.fork()
        if pid == 0:
            self._serve(request_r, reply_w, worker_pid)
        self._share(False)
        os.close(request_r)
        os.close(reply_w)
        self.pid, self._n_images, self._busy_s = pid, 0, 0.0

    def _serve(self, request_r: int, reply_w: int, worker_pid: int) -> NoReturn:
        try:
            confine.die_with_parent(worker_pid, signal.SIGKILL)
            self._hold.guard_files()
            for low, high in ((3, min(request_r, reply_w)), (max(request_r, reply_w) + 1, 1024)):
                os.closerange(low, high)
            os.closerange(min(request_r, reply_w) + 1, max(request_r, reply_w))
            extra = _BASE_BYTES + _BYTES_PER_PX * self._max_image_px + len(self._inbox) + len(self._outbox)
            limits = limits_lib.Limits(
                timeout_s=_TIMEOUT_S + _FRESH_AFTER_S,
                memory_bytes=extra,
                max_output_bytes=0,
                max_flood_bytes=0,
                max_file_bytes=0,
                max_scratch_bytes=0,
                max_descriptors=64,
            )
            limits_lib.apply(limits, self._base_bytes)
            self._hold.guard_calls()
            while request := os.read(request_r, _REQUEST.size):
                n_bytes, at = _REQUEST.unpack(request)
                result = _decode_one(self._inbox[:n_bytes], self._max_image_px, self._outbox, at)
                fault = result.fault.encode()[:_MAX_FAULT_BYTES]
                os.write(reply_w, _REPLY.pack(result.height, result.width) + fault)
        finally:
            os._exit(1)

    def _ask(self, content: bytes, at: int, deadline: float) -> Decoded:
        """One file; the process is taken for captured until its answer has been checked."""
        if not self.pid:
            self._start()
        self._inbox[: len(content)] = content
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
        is_sound = not fault and 0 < result.n_bytes <= len(self._outbox) - at
        return result if is_sound else Decoded(fault=fault or UNREADABLE)

    def decode(self, files: Sequence[bytes]) -> tuple[list[Decoded], memoryview]:
        """Decodes the files of one call, up to the first that is no sound image: one fault is the call's.

        Args:
          files: contents, each capped in size already.

        Returns:
          (one result a file, those behind a fault with the same one; uint8 pixels of the images one behind the other,
          which hold until the next call).
        """
        results, at = [], 0
        deadline = time.monotonic() + _TIMEOUT_S
        for content in files:
            started = time.monotonic()
            result = self._ask(content, at, deadline)
            self._n_images += 1
            self._busy_s += time.monotonic() - started
            if result.fault or self._n_images >= MAX_IMAGES or self._busy_s > _FRESH_AFTER_S:
                self.stop()
            results.append(result)
            at += result.n_bytes
            if result.fault:
                results += [Decoded(fault=result.fault)] * (len(files) - len(results))
                break
        return results, memoryview(self._outbox)[:at]

    def tidy(self, n_bytes: int) -> None:
        """Gives back the memory of a large call: the process's and what is shared."""
        if n_bytes > _KEPT_BYTES:
            self.stop()
            for box in (self._inbox, self._outbox):
                box.madvise(mmap.MADV_REMOVE)

    def stop(self) -> None:
        """Ends the process; the next image starts another."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self._request_fd)
            os.close(self._reply_fd)
            self.pid = 0
