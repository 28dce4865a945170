"""The tool that runs the policy's Python in the sandbox, over the images of its trajectory."""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from arft_jax.protocol import INPUT_NAME, OUTPUT_NAME
from arft_jax.syntax.spec import BadCall, ToolSpec
from arft_jax.tools.bank import name_images
from arft_jax.tools.call import Call, Cancelled
from arft_jax.tools.context import ToolContext
from arft_jax.tools.record import Job, Tool, ToolHost
from arft_jax.tools.sandbox import CodeSession, PythonSandbox
from arft_jax.trajectory import Observation, ToolStatus

GIVEN_UP = "given up"
_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


def read_code(body: str) -> dict[str, Any]:
    """The source in the one fenced block of a ``<code>`` element.

    Raises:
      BadCall: no such block, several, or an empty one.
    """
    fences = _FENCE.findall(body)
    if len(fences) != 1:
        raise BadCall("<code> must hold exactly one fenced python block")
    if not fences[0].strip():
        raise BadCall("<code> is empty")
    return {"code": fences[0]}


def write_code(arguments: Mapping[str, Any]) -> str:
    """Source -> its fenced block.

    Raises:
      BadCall: source that would end the block.
    """
    if "```" in arguments["code"]:
        raise BadCall("the code must not hold ```")
    return f"```python\n{arguments['code']}```"


class PythonService:
    """Runs code.

    Args:
      sandbox: runs it; its owner closes it.
      sessions: whether a trajectory's code finds the variables of its earlier code (sandbox/session.py).
    """

    def __init__(self, sandbox: PythonSandbox, sessions: bool = False):
        self._sandbox, self._sessions = sandbox, sessions

    def begin(self, arguments: Mapping[str, Any], context: ToolContext) -> Job:
        """See :class:`arft_jax.tools.record.Service`."""
        source, named = arguments["code"], name_images(context.images)
        if self._sessions:
            run = context.keep("python", CodeSession).begin(self._sandbox, source, named)
        else:
            run = functools.partial(self._sandbox.run, source, named)
        return Job(functools.partial(_run_code, run))

    @property
    def line(self) -> str:
        """What holds the code that runs here: one line for a log."""
        return self._sandbox.line

    def stamp(self) -> dict[str, str]:
        """The same in a few words, recorded with every trajectory and checkpoint: ``{"sandbox": "L1"}``."""
        return {"sandbox": self._sandbox.stamp}


def _run_code(run: Callable[[Call], Observation], call: Call) -> Observation:
    try:
        return run(call)
    except Cancelled:
        # Nobody waits for it. Its time went by in the policy's code or in the queue before it: no sign of a sandbox
        # that fails, which a breaker would take an overdue call for.
        return Observation(GIVEN_UP, (), ToolStatus.REFUSED)


@contextlib.contextmanager
def _open(host: ToolHost) -> Iterator[PythonService]:
    t = host.settings
    s = t["sandbox"]
    with PythonSandbox(
        n_workers=t["n_workers"],
        timeout_s=t["timeout_s"],
        memory_mb=t["memory_mb"],
        max_output_bytes=t["max_output_bytes"],
        level=s["level"],
        wrapper=s["wrapper"],
        override=s["override"],
    ) as sandbox:
        yield PythonService(sandbox, s["sessions"])


PYTHON = Tool(
    ToolSpec(
        name="python",
        description="Runs Python that works on the pictures; what it prints and the pictures that it writes are shown.",
        parameters={
            "type": "object",
            "properties": {
                "code": {
                    "type": "string",
                    "description": f"Python source. It reads '{INPUT_NAME}' (the newest picture), or image_1, image_2, "
                    f"... by name, and writes '{OUTPUT_NAME}' with OpenCV.",
                }
            },
            "required": ["code"],
        },
        tag="code",
        line=f"<code> ... </code> holds one fenced ```python block. It reads '{INPUT_NAME}' and writes '{OUTPUT_NAME}' "
        "with OpenCV. The written picture is shown to you and takes the place of the input picture.",
        read_body=read_code,
        write_body=write_code,
        kinds=("coding", "general"),
        tells=False,
    ),
    _open,
)
