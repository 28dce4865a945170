"""The tool that takes a diagnosis: the policy names what is wrong with the picture and is told what to do about it."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from arft_jax.protocol import KINDS
from arft_jax.syntax.spec import BadCall, ToolSpec
from arft_jax.tools.context import ToolContext
from arft_jax.tools.record import Tool, ToolHost
from arft_jax.trajectory import Observation, ToolStatus

# What the policy reads. Short: a small model reads them too.
TIP_CROP = "Write code that crops the box [x_min, y_min, x_max, y_max]."
TIP_NONE = "The image is fine. Answer directly."
TIP_FIX = "Write code that fixes these problems."

_KIND_SET = re.compile(r"\{\s*(?:'[a-z0-9]+'(?:\s*,\s*'[a-z0-9]+')*)\s*\}")


def tip(kinds: tuple[str, ...]) -> str:
    """What to do about the named problems.

    >>> tip(("none",))
    'The image is fine. Answer directly.'
    """
    if "crop" in kinds:
        return TIP_CROP
    return TIP_NONE if kinds == ("none",) else TIP_FIX


def read_problems(body: str) -> dict[str, Any]:
    """``{'rotation90', 'dark'}`` -> the named kinds, sorted, without repeats.

    Raises:
      BadCall: no such set, or an unknown kind.
    """
    body = body.strip()
    if not _KIND_SET.fullmatch(body):
        raise BadCall("<problem> must hold a set such as {'rotation90', 'dark'}")
    kinds = re.findall(r"'([a-z0-9]+)'", body)
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise BadCall(f"unknown problem kind {unknown[0]!r}")
    return {"problems": sorted(set(kinds))}


def write_problems(arguments: Mapping[str, Any]) -> str:
    """``["rotation90", "dark"]`` -> ``{'rotation90', 'dark'}``."""
    return "{" + ", ".join(f"'{kind}'" for kind in arguments["problems"]) + "}"


class DiagnoseService:
    """Tells what to do about the named problems."""

    is_instant = True  # no call waits for anything

    def begin(self, arguments: Mapping[str, Any], context: ToolContext) -> Observation:
        """See :class:`arft_jax.tools.record.Service`."""
        named = tuple(sorted(set(arguments["problems"])))
        if not named:  # the tags cannot write it
            text = "problems must name at least one, or none where nothing is wrong."
            return Observation(text, status=ToolStatus.ERROR)
        return Observation(tip(named))


@contextlib.contextmanager
def _open(host: ToolHost) -> Iterator[DiagnoseService]:
    yield DiagnoseService()


DIAGNOSE = Tool(
    ToolSpec(
        name="diagnose",
        description="Says what is wrong with the picture, before it is repaired.",
        parameters={
            "type": "object",
            "properties": {
                "problems": {
                    "type": "array",
                    "items": {"type": "string", "enum": list(KINDS)},
                    "description": "What is wrong: rotation90 (turned clockwise by a quarter), rotation180 (upside "
                    "down), dark, overexposure, blur, noise, crop (only a part of it matters), or none.",
                }
            },
            "required": ["problems"],
        },
        tag="problem",
        line="<problem>{'dark'}</problem> names what is wrong, as a set of one or more of: rotation90 (turned "
        "clockwise by a quarter), rotation180 (upside down), dark, overexposure, blur, noise, crop (only a part of it "
        "matters), none.",
        read_body=read_problems,
        write_body=write_problems,
        kinds=("coding",),
        tells=False,
    ),
    _open,
)
