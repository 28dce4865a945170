"""Reference chains of tasks, recorded with the tools really running: the right calls, what came back, the answer.

They are written as the conversations that a warm start reads (data/chat_chains.py).
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from arft_jax.build.tools import open_toolbox, plan_offer, tool_host
from arft_jax.config import default_config
from arft_jax.data.synthetic import lexicon
from arft_jax.protocol import ToolCall
from arft_jax.tools.sandbox import NoneHolds
from arft_jax.tools.search_router import ALL
from arft_jax.tools.toolbox import Conversation, Toolbox
from arft_jax.trajectory import Image, Observation, Task, ToolStatus

_THOUGHTS = {"diagnose": "problem", "python": "code", "search": "search"}
_IN_FLIGHT = 8  # chains side by side: a few pictures each are in memory


@dataclasses.dataclass(frozen=True, eq=False)
class Script:
    """What a chain does: the calls, in order, and the answer.

    Args:
      task: as its policy would meet it; images are named relative to the file of chains.
      images: the names of the task's files.
      calls: one a turn.
      check: what is wrong with the last observation, in words; None: it is as it should be.
    """

    task: Task
    images: tuple[str, ...]
    calls: tuple[ToolCall, ...]
    check: Callable[[Observation], str | None] = lambda seen: None


@contextlib.contextmanager
def open_tools_for(kind: str, index: pathlib.Path | None = None) -> Iterator[Toolbox]:
    """The paper's tools of an agent, with the defaults of the configuration.

    Args:
      kind: coding or search.
      index: of the documents that are searched.

    Raises:
      ValueError: no sandbox holds on this host.
    """
    config = default_config()
    host = tool_host(config, None if index is None else {ALL: index})
    try:
        with open_toolbox(config, plan_offer(config, host, {kind}), host) as toolbox:
            yield toolbox
    except NoneHolds as error:
        raise ValueError(f"{error}; --chains=off makes tasks without chains") from error


def record(
    scripts: Sequence[Script], toolbox: Toolbox, write_image: Callable[[str, Image], str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """(a conversation for each script, in their order; what is wrong with each that is left out).

    Args:
      scripts: of tasks that differ in their ids.
      toolbox: runs the calls.
      write_image: keeps an image that a tool returned to a task, by its id, and gives the file's name.
    """
    chains, bad = [], []
    for first in range(0, len(scripts), _IN_FLIGHT):
        part = [_Recorder(script, toolbox, write_image) for script in scripts[first : first + _IN_FLIGHT]]
        while any([recorder.send() for recorder in part]):  # all of them, before the first is waited for
            for recorder in part:
                recorder.receive()
        chains += [recorder.line() for recorder in part if recorder.fault is None]
        bad += [f"{recorder.script.task.id}: {recorder.fault}" for recorder in part if recorder.fault is not None]
    return chains, bad


class _Recorder:
    def __init__(self, script: Script, toolbox: Toolbox, write_image: Callable[[str, Image], str]):
        self.script, self.fault = script, None
        self._conversation, self._write_image = Conversation(toolbox, script.task), write_image
        self._left, self._pending = list(script.calls), None
        shown = [_image_part(name) for name in script.images]
        self._messages = [{"role": "user", "content": [*shown, {"type": "text", "text": script.task.question}]}]

    def send(self) -> bool:
        """Starts the next call; False where there is none."""
        if self.fault is None and self._left:
            call = self._left.pop(0)
            self._pending = call, self._conversation.submit(call)
        return self._pending is not None

    def receive(self) -> None:
        """Takes what came back."""
        if self._pending is None:
            return
        (call, future), self._pending = self._pending, None
        seen = self._conversation.admit(future.result())
        if seen.status is not ToolStatus.OK:
            self.fault = f"{call.tool} ended with {seen.status}: {' '.join(seen.text.split())}"
        elif not self._left:
            self.fault = self.script.check(seen)
        called = {"function": {"name": call.tool, "arguments": dict(call.arguments)}}
        thought = lexicon.THOUGHTS[_THOUGHTS[call.tool]][0]
        self._messages.append({"role": "assistant", "content": thought, "tool_calls": [called]})
        images = [] if self.fault else [self._write_image(self.script.task.id, image) for image in seen.images]
        text = [{"type": "text", "text": seen.text}] if seen.text else []
        self._messages.append({"role": "tool", "content": [*map(_image_part, images), *text]})

    def line(self) -> dict[str, Any]:
        """The conversation, with the answer."""
        task = self.script.task
        answer = {"role": "assistant", "content": task.answers[0], "reasoning_content": lexicon.THOUGHTS["answer"][0]}
        return {"id": task.id, "kind": task.kind, "messages": [*self._messages, answer]}


def _image_part(name: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": name}}
