"""From a client's body to a request of the service: everything that can be wrong is found here, before it waits."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from arft_jax.data.chat import Said, Segment, conversation_segment
from arft_jax.rollout.renderer import Renderer
from arft_jax.rollout.request import OwnTerms, Request, RolloutLimits, check_prompt
from arft_jax.serve.conversation import Conversation, Memory
from arft_jax.serve.pictures import Pictures
from arft_jax.serve.requests import BadRequest, ChatRequest, read_request
from arft_jax.trajectory import Task


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """What a body asks of the service.

    Args:
      chat: as it was read.
      request: to be played.
      prompt: its tokens.
      before: key of the turn in the memory of turns.
      kind: of the agent whose tools run on the server; empty: one turn of the policy, and the client's own tools.
    """

    chat: ChatRequest
    request: Request
    prompt: Segment
    before: str
    kind: str


class Door:
    """Reads bodies for one policy.

    Args:
      name: of the policy: the model whose every turn goes to the client. ``NAME-KIND`` is the whole agent of a kind.
      kinds: of agents, with the name of their task set, which says the system prompt; empty: no tools run here.
      renderer: makes prompts model input.
      limits: sizes and budgets of a trajectory; an agent has as many turns.
      folder: of image files that requests may name; None: none.
    """

    def __init__(
        self,
        name: str,
        kinds: Mapping[str, str],
        renderer: Renderer,
        limits: RolloutLimits,
        folder: pathlib.Path | None = None,
    ):
        self.name, self._kinds, self._renderer, self._limits = name, dict(kinds), renderer, limits
        self._folder, self.memory = folder, Memory()
        self.models = {name: "", **{f"{name}-{kind}": kind for kind in kinds}}

    def read(self, body: bytes, identity: str) -> Asked:
        """Reads a body.

        Args:
          body: JSON.
          identity: of the request.

        Raises:
          BadRequest: what is wrong, with its field.
        """
        chat = read_request(body, Pictures(self._folder).open)
        model = chat.model or self.name
        if model not in self.models:
            raise BadRequest(f"model must be one of {', '.join(self.models)}: got {model!r}", "model")
        kind = self.models[model]
        task = Task(
            identity, kind or "general", chat.messages[-1].text, chat.images, (), corpus=chat.corpus,
            task_set=self._kinds.get(kind, ""), extra=dict(chat.metadata),
        )  # fmt: skip
        if kind:
            if chat.tools or chat.messages[0].role == "system" or chat.stop:
                told = f"{model} runs its own tools, with its own system prompt"
                raise BadRequest(f"{told}: tools, system messages and stop are for {self.name}", "model")
        elif chat.corpus:
            raise BadRequest(f"corpus is for an agent that searches: got model {model!r}", "corpus")
        talk = Conversation(chat.messages, chat.tools, self.memory)
        said = talk.said
        if kind and (system := self._renderer.system(task)):
            said = [Said("system", (system,)), *said]
        prompt = self._prompt(said)
        limits = self._limits_of(chat, kind, prompt, task)
        terms = OwnTerms(limits, chat.temperature, chat.top_p, prompt)
        return Asked(chat, Request(task, 0, chat.n, _key(chat.seed), terms), prompt, talk.before, kind)

    def _prompt(self, said: list[Said]) -> Segment:
        renderer = self._renderer
        try:
            return conversation_segment(renderer.tokenizer, renderer.patches.processor, said)
        except ValueError as error:  # an image that the policy cannot be shown
            raise BadRequest(str(error).partition(" (config")[0], "messages") from None

    def _limits_of(self, chat: ChatRequest, kind: str, prompt: Segment, task: Task) -> RolloutLimits:
        limits, n_prompt = self._limits, len(prompt.tokens)
        if n_prompt + 1 > limits.max_tokens:
            raise BadRequest(
                f"the prompt must leave room for an answer: it has {n_prompt} tokens of at most {limits.max_tokens}",
                "messages",
                "context_length_exceeded",
            )
        if (n := sum(prompt.image_lens)) > limits.n_features:
            raise BadRequest(f"images must have at most {limits.n_features} tokens: got {n}", "messages")
        room = limits.max_tokens - n_prompt
        wanted = room if chat.max_tokens is None else min(chat.max_tokens, room)
        if kind:
            limits = dataclasses.replace(limits, max_tokens=n_prompt + wanted)
        else:
            limits = dataclasses.replace(limits, max_turns=1, max_turn_tokens=wanted)
        try:
            check_prompt(task, prompt, self._renderer.n_pixels(prompt), limits)
        except ValueError as error:
            raise BadRequest(str(error).partition(" (config")[0], "messages") from None
        return limits


def _key(seed: int | None) -> np.ndarray:
    """uint32[2]: the key of a request; that of a seed is always the same."""
    drawn = os.urandom(8) if seed is None else hashlib.sha256(f"seed {seed}".encode()).digest()[:8]
    return np.frombuffer(drawn, "<u4").astype(np.uint32)
