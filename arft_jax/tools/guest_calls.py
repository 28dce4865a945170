"""Runs the code of a guest's tool in threads of its own, and makes what it returns an observation."""

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import PIL.Image
from absl import logging

from arft_jax.data.images import BadImage, check_size
from arft_jax.tools import clean
from arft_jax.tools.bank import ImageBank, name_images
from arft_jax.tools.call import Call, Cancelled, Fault
from arft_jax.trajectory import Image, Observation, Task, ToolStatus

NOTHING = "The tool returned no text and no image."
_MAX_ABANDONED = 16  # calls past their time whose threads still run


def run_aside(function: Callable[[], Any], name: str, longest_s: float) -> None:
    """Runs a guest's code in a thread of its own and waits for it so long; what it raises goes to the log."""

    def run() -> None:
        try:
            function()
        except BaseException:
            logging.exception("the tool %r raised when its trajectory ended", name)

    thread = threading.Thread(target=run, name=f"guest-{name}-close", daemon=True)
    thread.start()
    thread.join(longest_s)
    if thread.is_alive():
        logging.warning("the tool %r is still closing after %g s and is left behind", name, longest_s)


class Pictures(Mapping):
    """The images of a trajectory by name, as PIL images; a copy is made at each access.

    Args:
      images: in order of arrival.
    """

    def __init__(self, images: ImageBank):
        self._images = name_images(images)

    def __getitem__(self, name: str) -> PIL.Image.Image:
        return PIL.Image.fromarray(np.ascontiguousarray(self._images[name].pixels))

    def __iter__(self) -> Iterator[str]:
        return iter(self._images)

    def __len__(self) -> int:
        return len(self._images)


class GuestContext:
    """What a tool may know of its trajectory.

    Args:
      task: the data set's row, with what else it says.
      images: so far.
    """

    def __init__(self, task: Task, images: ImageBank):
        self.task, self.images = task, Pictures(images)

    def image(self, name: str = "") -> PIL.Image.Image:
        """The image of that name, or the newest.

        Raises:
          ValueError: there is none; the sentence names those that there are.
        """
        names = list(self.images)
        if (name and name not in names) or not names:
            raise ValueError(f"There is no image of that name. Images: {', '.join(names) or 'none'}.")
        return self.images[name or names[-1]]


class GuestRunner:
    """Gives each call a thread, waits for it no longer than its time, and reads what it returned.

    A thread cannot be ended from outside: one that hangs is left behind as a daemon, and where too many hang no other
    call is started.

    Args:
      name: of the tool.
      timeout_s: seconds of a call.
      timeout_is_infra: whether a call past its time is an infrastructure failure, which masks the trajectory.
      n_threads: calls served at the same time.
      max_chars: of text kept.
    """

    def __init__(self, name: str, timeout_s: float, timeout_is_infra: bool, n_threads: int, max_chars: int):
        self._name, self._timeout_s, self._is_infra = name, timeout_s, timeout_is_infra
        self._n_threads, self._max_chars = n_threads, max_chars
        self._lock, self._running = threading.Lock(), 0

    def work(self, function: Callable[..., Any], values: Mapping[str, Any]) -> Callable[[Call], Observation]:
        """What serves one call."""
        return lambda call: self._serve(function, values, call)

    def _serve(self, function: Callable[..., Any], values: Mapping[str, Any], call: Call) -> Observation:
        done, outcome = threading.Event(), []
        with self._lock:
            if self._running >= self._n_threads + _MAX_ABANDONED:
                raise Fault(f"too many calls of the tool {self._name!r} hang", retry=False)
            self._running += 1

        def run() -> None:
            try:
                outcome.append((function(**values), None))
            except BaseException as error:  # told to the policy; a thread has nobody else to tell
                outcome.append((None, error))
            finally:
                with self._lock:
                    self._running -= 1
                done.set()

        threading.Thread(target=run, name=f"guest-{self._name}", daemon=True).start()
        with call.ended_by(done.set):
            done.wait(max(min(self._timeout_s, call.left_s), 0.0))
        if call.cancelled:
            raise Cancelled
        if not outcome:
            return self._late()
        value, error = outcome[0]
        if isinstance(error, Fault):
            raise error
        if error is not None:
            logging.info("the tool %r raised", self._name, exc_info=error)
            return self._failed(f"{type(error).__name__}: {error}")
        return self._observation(value)

    def _late(self) -> Observation:
        text = f"The tool took longer than {self._timeout_s:g} s."
        if self._is_infra:
            raise Fault(text, retry=False)
        return Observation(text, (), ToolStatus.LIMIT)

    def _failed(self, text: str) -> Observation:
        return Observation(clean.clean_text(text, self._max_chars), (), ToolStatus.ERROR)

    def _observation(self, value: Any) -> Observation:
        texts, images = [], []
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, str | int | float | np.number | np.bool):
                texts.append(str(part))
            elif part is not None:
                try:
                    images.append(_image(part))
                except (BadImage, TypeError, ValueError) as error:
                    return self._failed(f"The tool returned what cannot be shown: {error}")
        if not texts and not images:
            return self._failed(NOTHING)
        return Observation(clean.clean_text("\n".join(texts), self._max_chars), tuple(images))


def _image(value: Any) -> Image:
    """An image of a guest, upright RGB.

    Raises:
      BadImage: a size that the door for images does not let in.
      TypeError: no image.
    """
    if isinstance(value, Image):
        value = value.pixels
    if isinstance(value, PIL.Image.Image):
        check_size(value.height, value.width)
        value = np.asarray(value.convert("RGB"))
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != 3:
        told = f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"an image must be a PIL image or uint8[height, width, 3], got {told}")
    check_size(*value.shape[:2])
    return Image(np.array(value))
