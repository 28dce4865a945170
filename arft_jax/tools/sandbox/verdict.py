"""Turns what a worker reports of a call into what the policy sees; the exit status alone decides."""

import os
import signal

from arft_jax.tools import clean
from arft_jax.tools.sandbox import decode, wire
from arft_jax.tools.sandbox.limits import Limits
from arft_jax.trajectory import Observation, ToolStatus

NO_OUTPUT = "No output image was written and nothing was printed."
IRREGULAR_OUTPUT = "The output image must be a regular file."
LARGE_OUTPUT = "The output image file is too large."
TOO_MUCH_PRINTED = "Too much was printed."
TOO_MUCH_WRITTEN = "Too much was written to files."
LONG_SOURCE = "The code is too long."


def time_text(limits: Limits) -> str:
    """Worded for the policy, the number in it."""
    return f"Time limit of {limits.timeout_s:g} s reached."


def memory_text(limits: Limits) -> str:
    """Worded for the policy, the number in it."""
    return f"Memory limit of {limits.memory_bytes >> 20} MB reached."


def _of_signal(number: int, limits: Limits, seconds: float) -> Observation:
    if number == signal.SIGXCPU:
        return Observation(time_text(limits), (), ToolStatus.LIMIT, seconds)
    if number == signal.SIGXFSZ:
        return Observation(TOO_MUCH_WRITTEN, (), ToolStatus.LIMIT, seconds)
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return Observation(f"The code crashed ({name}).", (), ToolStatus.ERROR, seconds)


def _of_success(reply: dict, content: bytes, text: str, max_image_px: int, seconds: float) -> Observation:
    kind = reply["output"]
    if kind == "none":
        if text:
            return Observation(text, (), ToolStatus.OK, seconds)
        return Observation(NO_OUTPUT, (), ToolStatus.ERROR, seconds)
    if kind != "file":
        fault = LARGE_OUTPUT if kind == "large" else IRREGULAR_OUTPUT
        return Observation(fault, (), ToolStatus.ERROR, seconds)
    try:
        image = decode.decode_output(content, max_image_px)
    except decode.BadImage as error:
        return Observation(str(error), (), ToolStatus.ERROR, seconds)
    return Observation(text, (image,), ToolStatus.OK, seconds)


def judge(reply: dict, content: bytes, limits: Limits, max_image_px: int, seconds: float) -> Observation:
    """Judges a call whose child is dead.

    Args:
      reply: the worker's report: how the wait ended, the wait status, what was printed and written.
      content: the output file's bytes, empty unless the code ended well.
      limits: the call's limits, for their wording.
      max_image_px: inclusive cap on the output image.
      seconds: wall time of the call.

    Returns:
      What the policy sees.
    """
    if not reply["was_set_up"]:
        return Observation("sandbox fault: a call could not be set up", (), ToolStatus.INFRA, seconds)
    limit_texts = {"time": time_text(limits), "flood": TOO_MUCH_PRINTED, "disk": TOO_MUCH_WRITTEN}
    if reply["verdict"] in limit_texts:
        return Observation(limit_texts[reply["verdict"]], (), ToolStatus.LIMIT, seconds)
    code = os.waitstatus_to_exitcode(reply["status"])
    if code < 0:
        return _of_signal(-code, limits, seconds)
    if code == wire.EXIT_MEMORY:
        return Observation(memory_text(limits), (), ToolStatus.LIMIT, seconds)
    if code != 0:
        note = clean.clean_text(" ".join(reply["note"].split()), wire.MAX_NOTE_CHARS + 32)
        return Observation(note or f"The code ended with exit status {code}.", (), ToolStatus.ERROR, seconds)
    printed = reply["printed"] + (clean.CUT if reply["was_cut"] else "")
    text = clean.clean_text(printed, limits.max_output_bytes + len(clean.CUT))
    return _of_success(reply, content, text, max_image_px, seconds)
