"""One tool call by hand: what a writer of prompts uses to see what the policy would see."""

import dataclasses
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from arft_jax.data.images import BadImage, ImageProcessor, decode_image, encode_png
from arft_jax.protocol import ToolCall
from arft_jax.tools.bank import ImageBank, name_images
from arft_jax.tools.crop import FRAMES, crop
from arft_jax.tools.sandbox import NoneHolds, PythonSandbox
from arft_jax.trajectory import Image, Observation, Task, ToolStatus

PUBLISHED_SIZES = {"min_pixels": 4 * 28 * 28, "max_pixels": 16384 * 28 * 28}  # Qwen2.5-VL's preprocessor_config.json


@dataclasses.dataclass(frozen=True, eq=False)
class ToolRequest:
    """A request as it came from the command line; what was not given is empty.

    Args:
      tool: python, search, image_search or crop.
      config: whose limits hold.
      code: file of Python source.
      images: files, in order: image_1, image_2, ...
      query: words to look for.
      index: of texts, or of images.
      box: ``x0,y0,x1,y1``.
      frame: in which the box is meant.
      level: of the sandbox, in place of the config's.
    """

    tool: str
    config: Any
    code: str = ""
    images: Sequence[str] = ()
    query: str = ""
    index: str = ""
    box: str = ""
    frame: str = ""
    level: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What came of it: the observation, how the code ended (status or signal), what held it (one line)."""

    observation: Observation
    exit: int | str | None = None
    sandbox: str | None = None


def refused(text: str, seconds: float = 0.0) -> Outcome:
    """An outcome without a call."""
    return Outcome(Observation(text, (), ToolStatus.REFUSED, seconds))


# What each tool must be given, and what it may be given.
_FLAGS = {
    "python": ({"code"}, {"images", "level"}),
    "search": ({"query"}, {"index"}),
    "image_search": ({"index"}, {"images", "query"}),
    "crop": ({"images", "box", "frame"}, set()),
}
_FLAG_NAMES = {"images": "image"}


def check(call: ToolRequest) -> None:
    """Refuses a request that fits no tool.

    Raises:
      ValueError: an unknown tool, or a flag that it needs or does not take.
    """
    if call.tool not in _FLAGS:
        raise ValueError(f"the tool must be one of {', '.join(_FLAGS)}: got {call.tool!r}")
    needed, taken = _FLAGS[call.tool]
    for name in ("code", "images", "query", "index", "box", "frame", "level"):
        flag = _FLAG_NAMES.get(name, name)
        if getattr(call, name) and name not in needed | taken:
            raise ValueError(f"{call.tool} takes no --{flag}")
        if not getattr(call, name) and name in needed:
            raise ValueError(f"{call.tool} needs --{flag}")
    if call.tool == "crop" and len(call.images) != 1:
        raise ValueError(f"crop needs one --image: got {len(call.images)}")
    if call.tool == "crop" and call.frame not in FRAMES:
        raise ValueError(f"--frame must be one of {', '.join(FRAMES)}: got {call.frame!r}")
    if call.tool == "image_search" and len(call.images) + bool(call.query) != 1:
        raise ValueError("image_search needs one --image or a --query")


def _read_code(path: str) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ValueError(f"--code must be a readable UTF-8 file: got {path} ({error})") from error


def _run_python(call: ToolRequest, bank: ImageBank) -> Outcome:
    """As in a rollout: all images by name, the newest under the paper's name too."""
    t, source = call.config.tools, _read_code(call.code)
    limits = dict(timeout_s=t.timeout_s, memory_mb=t.memory_mb, max_output_bytes=t.max_output_bytes)
    try:
        s = t.sandbox
        level = call.level or s.level
        sandbox = PythonSandbox(n_workers=1, level=level, wrapper=s.wrapper, override=s.override, **limits)
    except NoneHolds as error:  # nothing was run, nor will be on this host
        return refused(str(error))
    except RuntimeError as error:  # a worker did not come up: an infrastructure failure
        return Outcome(Observation(str(error), (), ToolStatus.INFRA))
    with sandbox:
        report = sandbox.report(source, name_images(bank))
        ended = int(report.exit) if report.exit.isdecimal() else report.exit or None
        return Outcome(report.observation, ended, sandbox.line)


def _search(call: ToolRequest, bank: ImageBank) -> Outcome:
    """As in a rollout: through the toolbox, with its call policy, its retries and its wording."""
    from arft_jax.build.tools import tool_host
    from arft_jax.tools.bundled import BUNDLED
    from arft_jax.tools.offer import make_offer
    from arft_jax.tools.search_router import ALL
    from arft_jax.tools.toolbox import Conversation, open_tools

    config = call.config.copy_and_resolve_references()
    if call.index:
        config.tools.search.backend = "local"
    elif config.tools.search.backend == "local":
        raise ValueError("search needs --index, or a --config whose tools.search.backend is remote")
    host = tool_host(config, {ALL: call.index} if call.index else None)
    offer = make_offer({"search": BUNDLED["search"]}, (), host, names=("search",))
    with open_tools(offer, host, trajectory_deadline_s=config.tools.trajectory_deadline_s) as toolbox:
        conversation = Conversation(toolbox, Task("call", "search", call.query, (), ()))
        return Outcome(conversation.submit(ToolCall("search", {"query": call.query})).result())


def _search_images(call: ToolRequest, bank: ImageBank) -> Outcome:
    from arft_jax.tools.image_index import ImageIndex
    from arft_jax.tools.image_search import find_images

    embed = None
    if bank:
        from arft_jax.build.image_embedder import embed_function  # needs JAX, which a search by text does not

        embed = embed_function(call.config)
    with ImageIndex(call.index, embed) as index:
        started = time.monotonic()
        query = bank.names[-1] if bank else call.query
        seen = find_images(index, query, bank, call.config.tools.search.image_top_k, max_result_chars=1000)
        return Outcome(dataclasses.replace(seen, seconds=time.monotonic() - started))


def _crop(call: ToolRequest, bank: ImageBank) -> Outcome:
    data = call.config.data
    try:
        box = [float(number) for number in call.box.split(",")]
    except ValueError:
        raise ValueError(f"--box must be four numbers x0,y0,x1,y1: got {call.box!r}") from None
    return Outcome(crop(bank.last, box, call.frame, ImageProcessor(data.min_pixels, data.max_pixels)))


_RUN = {"python": _run_python, "search": _search, "image_search": _search_images, "crop": _crop}


def _write(images: Sequence[Image], folder: str) -> Iterator[str]:
    if not images:
        return
    directory = pathlib.Path(folder or tempfile.mkdtemp(prefix="arft-tool-"))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for image in images:
            path = directory / f"{image.name}.png"
            path.write_bytes(encode_png(image))
            yield str(path)
    except OSError as error:
        raise ValueError(f"--out must be a writable folder: got {folder} ({error.strerror})") from error


def run(call: ToolRequest, out: str = "") -> dict[str, Any]:
    """Makes the call and writes the images that it gave, as PNG under the names that the policy would use.

    Args:
      call: the request.
      out: folder for the images, made where it is missing; empty: a fresh temporary one, where there are any.

    Returns:
      status (ok, error, limit, infra, refused), exit (status code or signal's name of the code; None where none ran),
      text, images (paths), seconds, sandbox (one line; None without one). An image that the door refuses is a refused
      call.

    Raises:
      ValueError: flags or files that fit no call.
    """
    check(call)
    if out and os.path.exists(out) and not os.path.isdir(out):
        raise ValueError(f"--out must be a folder: got {out}")
    try:
        bank = ImageBank([decode_image(path) for path in call.images])
    except BadImage as error:
        outcome = refused(f"{error} (--image)")
    else:
        try:
            outcome = _RUN[call.tool](call, bank)
        except FileNotFoundError as error:  # an index
            raise ValueError(str(error)) from error
        outcome = dataclasses.replace(outcome, observation=bank.admit(outcome.observation))
    seen = outcome.observation
    return {
        "status": str(seen.status),
        "exit": outcome.exit,
        "text": seen.text,
        "images": list(_write(seen.images, out)),
        "seconds": round(seen.seconds, 6),
        "sandbox": outcome.sandbox,
    }
