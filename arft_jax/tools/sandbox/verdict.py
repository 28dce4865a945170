"""Turns what a worker reports of a call into what the policy sees; the exit status alone decides."""

import dataclasses
import os
import signal

import numpy as np

from arft_jax import protocol
from arft_jax.tools import clean
from arft_jax.tools.sandbox import wire
from arft_jax.tools.sandbox.limits import Limits
from arft_jax.trajectory import Image, Observation, ToolStatus

NO_OUTPUT = "No output image was written and nothing was printed."
IRREGULAR_OUTPUT = "The output image must be a regular file."
LARGE_OUTPUT = "The output image file is too large."
TOO_MUCH_PRINTED = "Too much was printed."
TOO_MUCH_WRITTEN = "Too much was written to files."
TOO_MANY_THREADS = "Too many threads were started."
LONG_SOURCE = "The code is too long."
_KIND_TEXTS = {"irregular": IRREGULAR_OUTPUT, "large": LARGE_OUTPUT}
_MAX_FAULT_CHARS = 200


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """One call, for people and logs.

    Args:
      observation: what the policy sees.
      exit: exit status or signal's name; empty where no call was made.
      stderr_tail: end of what went to standard error, with the whole traceback of an exception; uncleaned.
      seconds: wall time in the child, without the wait for a worker.
      cpu_s: processor time.
      max_rss_bytes: most memory that was resident, the loaded libraries included.
      was_replayed: whether the session's earlier code, where there is any, ran to its end; if not, the new code did not
        run, and the observation is not of it.
    """

    observation: Observation
    exit: str = ""
    stderr_tail: str = ""
    seconds: float = 0.0
    cpu_s: float = 0.0
    max_rss_bytes: int = 0
    was_replayed: bool = True


def time_text(limits: Limits) -> str:
    """Worded for the policy, the number in it."""
    return f"Time limit of {limits.timeout_s:g} s reached."


def memory_text(limits: Limits) -> str:
    """Worded for the policy, the number in it."""
    return f"Memory limit of {limits.memory_bytes >> 20} MB reached."


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _of_signal(number: int, limits: Limits, seconds: float) -> Observation:
    if number == signal.SIGXCPU:
        return Observation(time_text(limits), (), ToolStatus.LIMIT, seconds)
    if number == signal.SIGXFSZ:
        return Observation(TOO_MUCH_WRITTEN, (), ToolStatus.LIMIT, seconds)
    return Observation(f"The code crashed ({_signal_name(number)}).", (), ToolStatus.ERROR, seconds)


def _of_success(reply: dict, pixels: bytearray, text: str, seconds: float) -> Observation:
    outputs = reply["outputs"]
    if not outputs:
        if text:
            return Observation(text, (), ToolStatus.OK, seconds)
        return Observation(NO_OUTPUT, (), ToolStatus.ERROR, seconds)
    images, at = [], 0
    for output in outputs:
        fault = _KIND_TEXTS.get(output["kind"]) or clean.clean_text(output["fault"], _MAX_FAULT_CHARS)
        if fault:
            if output["name"] != protocol.OUTPUT_NAME:
                fault = f"{output['name']}: {fault}"
            return Observation(fault, (), ToolStatus.ERROR, seconds)
        height, width = output["height"], output["width"]
        values = np.frombuffer(pixels, np.uint8, 3 * height * width, at)
        images.append(Image(values.reshape(height, width, 3)))
        at += values.size
    return Observation(text, tuple(images), ToolStatus.OK, seconds)


def exit_text(reply: dict) -> str:
    """Exit status, or the name of the signal that ended the code: ``0``, ``1``, ``SIGKILL``."""
    code = os.waitstatus_to_exitcode(reply["status"])
    return str(code) if code >= 0 else _signal_name(-code)


def judge(reply: dict, pixels: bytearray, limits: Limits, seconds: float) -> Observation:
    """Judges a call whose child is dead.

    Args:
      reply: the worker's report: how the wait ended, the wait status, what was printed, the sizes of the images.
      pixels: of the images one behind the other, uint8; none unless the code ended well.
      limits: the call's limits, for their wording.
      seconds: wall time of the call.

    Returns:
      What the policy sees.

    Raises:
      ValueError: if the report's sizes and the pixels do not fit together.
    """
    if not reply["was_set_up"]:
        reason = clean.clean_text(reply["stderr"], _MAX_FAULT_CHARS)
        fault = "sandbox fault: a call could not be set up" + (f": {reason}" if reason else "")
        return Observation(fault, (), ToolStatus.INFRA, seconds)
    limit_texts = {
        "time": time_text(limits),
        "flood": TOO_MUCH_PRINTED,
        "disk": TOO_MUCH_WRITTEN,
        "threads": TOO_MANY_THREADS,
    }
    if reply["verdict"] in limit_texts:
        return Observation(limit_texts[reply["verdict"]], (), ToolStatus.LIMIT, seconds)
    code = os.waitstatus_to_exitcode(reply["status"])
    if code < 0:
        return _of_signal(-code, limits, seconds)
    if code == wire.EXIT_MEMORY and not reply["note"]:  # with one, the code chose this number itself
        return Observation(memory_text(limits), (), ToolStatus.LIMIT, seconds)
    if code != 0:
        note = clean.clean_text(" ".join(reply["note"].split()), wire.MAX_NOTE_CHARS + 32)
        return Observation(note or f"The code ended with exit status {code}.", (), ToolStatus.ERROR, seconds)
    printed = reply["printed"] + (clean.CUT if reply["was_cut"] else "")
    text = clean.clean_text(printed, limits.max_output_bytes + len(clean.CUT))
    return _of_success(reply, pixels, text, seconds)
