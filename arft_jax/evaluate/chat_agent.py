"""Plays a task against anything that completes a conversation: the agent loop of a rollout without its tokens.

Turns are read, tools called and limits kept as in a rollout (rollout/scheduler.py); messages hold what a rollout's
prompt, turns and observations hold, so that a chat template of Qwen2.5-VL makes the same tokens of them. Departures:

1. The lengths of prompts and turns are the server's to count: ``max_tokens`` of a whole trajectory is not kept.
2. A turn is cut behind its first action, whatever the server sent behind it.
"""

import asyncio
import base64
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np

from arft_jax.data import chat
from arft_jax.data.images import ImageProcessor, encode_png
from arft_jax.protocol import Malformed
from arft_jax.remote.costs import Usage
from arft_jax.remote.faults import Meaning, Refused, Unanswered
from arft_jax.remote.replies import Reply
from arft_jax.rollout.outcome import read_turn, status_after
from arft_jax.rollout.request import RolloutLimits
from arft_jax.rollout.rerender import rerendered
from arft_jax.syntax.plain import PlainSyntax
from arft_jax.syntax.spec import Syntax
from arft_jax.tools.context import ToolContext
from arft_jax.tools.toolbox import Toolbox, observed, resolved
from arft_jax.trajectory import Image, Observation, Status, Task, ToolStatus, Trajectory, Turn

Complete = Callable[[list[dict[str, Any]], int], Awaitable[Reply]]  # messages, number of the turn from 1

# How a request ends an item that the server will not serve.
_ENDS = {Meaning.CONTENT: Status.NO_ACTION, Meaning.LENGTH: Status.TOKENS}


@dataclasses.dataclass(frozen=True)
class Asking:
    """How tasks are asked.

    Args:
      system: the system text of a task; empty: none is sent.
      question: the user's text of a task, as it is sent.
      syntax: in which turns are written, and which frames replies of tools.
      limits: of a trajectory; those of its turns and images are kept.
      processor: what it can show, and how large.
      resized: images are sent as the processor resizes them; False: as they are.
      detail: of image parts; empty: not sent.
      sends_stops: the server is told the stop strings, and leaves the one out that ended a turn.
      context: as of a rollout: ``append`` or ``rerender``.
    """

    system: Callable[[Task], str]
    question: Callable[[Task], str]
    syntax: Syntax
    limits: RolloutLimits
    processor: ImageProcessor
    resized: bool = True
    detail: str = ""
    sends_stops: bool = False
    context: str = "append"

    def can_show(self, image: Image) -> bool:
        """Whether the model can be shown the image: no sliver."""
        return bool(chat.visible(Observation("", (image,)), self.processor)[0])

    def n_pixels(self, images: Sequence[Image]) -> int:
        """Pixels of images as they are sent."""
        sizes = [self.processor.resized_size(*image.size) if self.resized else image.size for image in images]
        return sum(height * width for height, width in sizes)


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """(the text up to the first stop string that is complete in it, whether there is one).

    >>> cut("<answer>7</answer> or <answer>8</answer>", ("</search>", "</answer>"))
    ('<answer>7</answer>', True)
    """
    ends = [at + len(stop) for stop in stops if (at := text.find(stop)) >= 0]
    return (text[: min(ends)], True) if ends else (text, False)


def restored(reply: Reply, stops: Sequence[str]) -> tuple[str, bool]:
    """(the text with the stop string that the server left out, whether it has left one out).

    Where the server does not name it, it is the one whose element is open.

    >>> restored(Reply("<answer>7"), ("</search>", "</answer>"))
    ('<answer>7</answer>', True)
    """
    text = reply.text
    if reply.says_stop:
        return (text + reply.stop, True) if reply.stop in stops else (text, False)
    opened = {stop: text.rfind(stop.replace("</", "<", 1)) for stop in stops}
    stop = max(opened, key=opened.__getitem__, default="")
    return (text + stop, True) if stop and opened[stop] >= 0 else (text, False)


class _Talk:
    """One conversation: what was said, what was shown, and how it ended."""

    def __init__(self, task: Task, asking: Asking):
        self.task, self.asking, self.context = task, asking, ToolContext(task)
        self.turns: list[Turn] = []
        self.messages: list[dict[str, Any]] = []
        self.info: dict[str, Any] = {}
        self._usage, self._parts = Usage(), {}
        self._n_images = self._n_pixels = 0

    async def open(self, task: Task) -> None:
        """The conversation begins, or begins again, with the prompt of the task."""
        system = self.asking.system(task)
        self.messages = [{"role": "system", "content": system}] if system else []
        self._n_images = self._n_pixels = 0
        await self._say(task.images, "", self.asking.question(task))

    async def _say(self, images: Sequence[Image], before: str, behind: str) -> None:
        """Adds a message of the user: text, images, text."""
        parts = [{"type": "text", "text": before}] if before and images else []
        parts += [await self._part(image) for image in images]
        parts += [{"type": "text", "text": behind}] if behind else []
        self.messages.append({"role": "user", "content": parts if images else before + behind})
        self._n_images += len(images)
        self._n_pixels += self.asking.n_pixels(images)

    async def _part(self, image: Image) -> dict[str, Any]:
        if image.sha256 not in self._parts:
            uri = await asyncio.to_thread(_data_uri, image, self.asking.processor if self.asking.resized else None)
            detail = {"detail": self.asking.detail} if self.asking.detail else {}
            self._parts[image.sha256] = {"type": "image_url", "image_url": {"url": uri, **detail}}
        return self._parts[image.sha256]

    def read(self, reply: Reply) -> Status | None:
        """Reads a turn; returns how it ends the trajectory, None where it goes on."""
        self._usage += reply.usage or Usage()
        self.info |= {"model": reply.model} if reply.model else {}
        syntax = self.asking.syntax
        if syntax.name != PlainSyntax.name:  # whose answer is the text alone
            reply = dataclasses.replace(reply, text=reply.whole)
        text, stopped = cut(reply.text, syntax.stops)
        if self.asking.sends_stops and not stopped and not reply.is_cut:
            text, stopped = restored(reply, syntax.stops)
        is_cut = reply.is_cut and not stopped
        action, in_form = read_turn(text, syntax, is_cut)
        if reply.refusal is not None:
            action, in_form = Malformed(f"the model declined: {reply.refusal}"), False
        self.turns.append(Turn(text, action, 0, 0, in_form=in_form))
        self.messages.append({"role": "assistant", "content": text})
        if reply.refusal is not None:
            return self.ended(Status.NO_ACTION, action.reason)
        return status_after(action, self.asking.limits, 0, len(self.turns), is_cut=is_cut, is_ended=not stopped)

    async def observe(self, observation: Observation) -> Status | None:
        """Takes in what came back for the last turn; returns how it ends the trajectory, None where it goes on."""
        asking, observation = self.asking, self.context.admit(observation)
        self.turns[-1] = dataclasses.replace(self.turns[-1], observation=observation)
        if observation.status is ToolStatus.INFRA:
            return Status.INFRA
        if asking.context == "rerender":
            task = rerendered(self.task, self.turns, asking.can_show)
            images, n_images, n_pixels = task.images, 0, 0
        else:
            images, text = chat.visible(observation, asking.processor)
            n_images, n_pixels = self._n_images, self._n_pixels
        n_images, n_pixels = n_images + len(images), n_pixels + asking.n_pixels(images)
        if images and not asking.limits.allows_images(n_images, n_pixels):
            return Status.IMAGES
        if asking.context == "rerender":
            await self.open(task)
        else:
            await self._say(images, *asking.syntax.reply(text))
        return None

    def ended(self, status: Status, reason: str) -> Status:
        """Notes why."""
        self.info["reason"] = reason
        return status

    def trajectory(self, status: Status) -> Trajectory:
        """The finished record: its tokens are the server's, and not known."""
        none = np.zeros(0, np.int32)
        return Trajectory(
            task=self.task,
            row=0,
            tokens=none,
            sampler_logps=np.zeros(0, np.float32),
            completion_mask=np.zeros(0, bool),
            observation_mask=np.zeros(0, bool),
            positions=np.zeros((3, 0), np.int32),
            prompt_len=0,
            images=(),
            turns=tuple(self.turns),
            status=status,
            info=self.info | {"usage": dataclasses.asdict(self._usage)},
            versions=none,
        )


async def play(task: Task, complete: Complete, toolbox: Toolbox, asking: Asking) -> Trajectory:
    """One conversation from the question to its end.

    Args:
      task: to ask.
      complete: gives the next turn; its Refused and Unanswered end the trajectory, what else it raises is passed on.
      toolbox: serves the calls.
      asking: how.
    """
    talk = _Talk(task, asking)
    try:
        return talk.trajectory(await _to_the_end(talk, complete, toolbox))
    finally:
        talk.context.close()


async def _to_the_end(talk: _Talk, complete: Complete, toolbox: Toolbox) -> Status:
    await talk.open(talk.task)
    while True:
        try:
            reply = await complete(talk.messages, len(talk.turns) + 1)
        except Refused as refused:
            return talk.ended(_ENDS.get(refused.meaning, Status.INFRA), f"the server declined: {refused}")
        except Unanswered as unanswered:
            return talk.ended(Status.INFRA, f"the server did not answer: {unanswered}")
        if (status := talk.read(reply)) is not None:
            return status
        action = talk.turns[-1].action
        if isinstance(action, Malformed):
            future = resolved(Observation(action.reason, (), ToolStatus.ERROR))
        else:
            future = toolbox.submit(action, talk.context)
        await asyncio.wait({asyncio.wrap_future(future)})
        if (status := await talk.observe(observed(future))) is not None:
            return status


def _data_uri(image: Image, processor: ImageProcessor | None) -> str:
    """An image as a PNG inside a URL."""
    shown = image if processor is None else Image(processor.resized(image.pixels))
    return f"data:image/png;base64,{base64.b64encode(encode_png(shown)).decode()}"
