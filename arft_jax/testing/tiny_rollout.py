"""A small engine, small tasks and tools without processes: what tests of sampler, loop and learner share."""

import concurrent.futures
import dataclasses
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from arft_jax.build import parts as build
from arft_jax.data.batch import VisionBucket
from arft_jax.data.images import ImageProcessor
from arft_jax.data.patches import PatchStore
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.models.cache import init_cache
from arft_jax.protocol import ToolCall
from arft_jax.rollout.engine import Engine
from arft_jax.rollout.renderer import Renderer
from arft_jax.rollout.request import Request, RolloutLimits
from arft_jax.rollout.slots import SlotMachine
from arft_jax.sampling.stops import build_stop_table
from arft_jax.steps.sampler import Rules, Sampler, make_sampler
from arft_jax.steps.state import SlotState, init_state
from arft_jax.syntax.spec import Syntax
from arft_jax.testing.scripted import CACHE_SIZES, scripted
from arft_jax.testing.tiny_model import TINY_PACKING, tiny_config, tiny_model
from arft_jax.tools.bundled import paper_syntax
from arft_jax.tools.context import ToolContext
from arft_jax.tools.toolbox import resolved
from arft_jax.trajectory import Image, Observation, Task, ToolStatus, Trajectory

SYSTEM = {"coding": "Fix.", "search": "Search.", "general": "Answer."}
LIMITS = RolloutLimits(
    n_slots=6, group_size=3, max_turns=3, max_turn_tokens=10, max_tokens=128, extend_rows=4, extend_chunk=16,
    n_features=64,
)  # fmt: skip


def tiny_policy(vocab_size: int, seed: int = 0, **kwargs: Any) -> tuple[nnx.GraphDef, nnx.State]:
    """(graphdef, params) of :func:`tiny_model` over a vocabulary."""
    return nnx.split(tiny_model(tiny_config(vocab_size=vocab_size), seed=seed, **kwargs))


def tiny_engine(
    graphdef: nnx.GraphDef,
    cache_sizes: Any,
    dim: int,
    *,
    tokenizer: Tokenizer,
    rules: Rules | None = None,
    sampler: Sampler | None = None,
    state: SlotState | None = None,
    bucket_columns: int = 0,
    decode_steps: int = 4,
    n_patches: int = 64,
    max_pixels: int = 56 * 56,
    options: Mapping[str, Any] | None = None,
    syntax: Syntax | None = None,
    **limits: int,
) -> Engine:
    """An engine of :data:`LIMITS`, images of 28 to 56 px a side.

    Args:
      graphdef: of the policy.
      cache_sizes: what ``init_cache`` reads of a TextConfig.
      dim: D, of the features.
      tokenizer: text to ids.
      rules: None: those of the syntax.
      sampler: programs of another engine to share.
      state: other slots than float32 ones on the default device.
      bucket_columns: of the slot machine.
      decode_steps: of a new sampler.
      n_patches: of an encode call.
      max_pixels: largest image.
      options: keyword arguments of Engine.
      syntax: in which the policy writes; None: the paper's.
      **limits: fields of :data:`LIMITS` to set differently.
    """
    sizes, syntax = dataclasses.replace(LIMITS, **limits), syntax or paper_syntax()
    if state is None:
        state = init_state(init_cache(cache_sizes, sizes.n_slots, sizes.max_tokens), sizes.n_features, dim)
    slots = SlotMachine(
        sampler or make_sampler(graphdef, decode_steps=decode_steps, top_k=0, top_p=1.0),
        state,
        rules or build.make_rules(tokenizer, syntax.stops),
        sizes,
        bucket_columns=bucket_columns,
    )
    patches, bucket = PatchStore(ImageProcessor(28 * 28, max_pixels)), VisionBucket(n_patches, 8, TINY_PACKING)
    renderer = Renderer(tokenizer, patches, bucket, lambda task: task.system or SYSTEM[task.kind], syntax)
    return Engine(slots, renderer, **(options or {}))


def rules_with_stops(tokenizer: Tokenizer, stops: Sequence[str]) -> Rules:
    """The protocol's rules with other stop strings, for policies that babble."""
    table = build_stop_table(tokenizer.token_bytes(), stops)
    return build.make_rules(tokenizer, stops)._replace(
        next_state=jax.device_put(table.next_state), hit_of=jax.device_put(table.hit_of)
    )


def tiny_image(seed: int, height: int = 28, width: int = 28, name: str = "image_1") -> Image:
    """Noise."""
    pixels = np.random.default_rng([seed, height, width]).integers(0, 256, (height, width, 3))
    return Image(pixels.astype(np.uint8), name)


def tiny_task(number: int, kind: str = "search", sizes: Sequence[tuple[int, int]] = ((28, 28),), **fields: Any) -> Task:
    """A task whose question and images follow from its number."""
    images = tuple(tiny_image(100 * number + i, *size) for i, size in enumerate(sizes))
    return Task(f"t{number}", kind, f"question {number}?", images, ("7",), **fields)


Answer = Callable[[Task, ToolCall, Image | None], Observation]


class InstantTools:
    """Stands in for a Toolbox: ``answer`` serves every call at once; ``calls`` holds what was asked.

    Of a trajectory's images the newest is handed on, None where there is none; ``banks`` holds them all, ``spent``
    what the tools had taken of the trajectory's time.
    """

    def __init__(self, answer: Answer):
        self.answer, self.calls, self.banks, self.spent = answer, [], [], []

    def note(self, call: ToolCall, context: ToolContext) -> tuple[Task, ToolCall, Image | None]:
        """Remembers a call; what :attr:`answer` is asked."""
        asked = context.task, call, context.newest
        self.calls.append(asked)
        self.banks.append(tuple(context.images))
        self.spent.append(context.spent_s)
        return asked

    def submit(self, call: ToolCall, context: ToolContext) -> "concurrent.futures.Future[Observation]":
        """See Toolbox.submit."""
        return resolved(self.answer(*self.note(call, context)))


class LateTools(InstantTools):
    """Answers come from threads, late and in shuffled order."""

    def __init__(self, answer: Answer, seed: int = 0, longest_s: float = 0.03, n_threads: int = 8):
        super().__init__(answer)
        self._dice, self._longest_s = random.Random(seed), longest_s
        self._threads = concurrent.futures.ThreadPoolExecutor(n_threads)

    def submit(self, call: ToolCall, context: ToolContext) -> "concurrent.futures.Future[Observation]":
        """See Toolbox.submit."""
        asked = self.note(call, context)
        wait_s = self._dice.random() * self._longest_s

        def serve():
            time.sleep(wait_s)
            return self.answer(*asked)

        return self._threads.submit(serve)

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown()


def failing(task: Task, action: ToolCall, image: Image | None) -> Observation:
    """An infrastructure failure at every call."""
    return Observation("tool fault", (), ToolStatus.INFRA)


class Stage:
    """An engine on which a scripted policy plays; other scripts need no other compiled program.

    Args:
      tokenizer: text to ids.
      script_len: longest script and one.
      before_decode: called before each decode call is dispatched.
      **limits: fields of :data:`LIMITS` to set differently, ``max_pixels`` and ``decode_steps`` of the engine.
    """

    N_SCRIPTS = 8

    def __init__(
        self,
        tokenizer: Tokenizer,
        script_len: int = 256,
        before_decode: Callable[[], None] | None = None,
        **limits: int,
    ):
        self.tokenizer, self._script_len = tokenizer, script_len
        max_tokens = limits.get("max_tokens", LIMITS.max_tokens)
        self._sizes = dict(vocab_size=tokenizer.vocab_size, end=tokenizer.eos_id, prompt_len=max_tokens)
        graphdef, _ = scripted([[0]], [[0]], n=self.N_SCRIPTS, script_len=script_len, **self._sizes)
        sampler = make_sampler(graphdef, decode_steps=limits.pop("decode_steps", 4), top_k=0, top_p=1.0)
        if before_decode is not None:
            sampler = sampler._replace(decode=_preceded(before_decode, sampler.decode))
        self.engine = tiny_engine(graphdef, CACHE_SIZES, 1, tokenizer=tokenizer, sampler=sampler, **limits)

    def ids(self, turn: str | Sequence[int]) -> list[int]:
        """A turn's tokens; ids as they are."""
        return self.tokenizer.encode(turn) if isinstance(turn, str) else list(turn)

    def params(self, scripts: Sequence[tuple[Task, Sequence[str | Sequence[int]]]]) -> nnx.State:
        """A policy that says, for each task, its turns one after the other."""
        prompts = [self.engine.renderer.prompt(task).tokens for task, _ in scripts]
        said = [[token for turn in turns for token in self.ids(turn)] for _, turns in scripts]
        return scripted(prompts, said, n=self.N_SCRIPTS, script_len=self._script_len, **self._sizes)[1]

    def play(self, scripts, tools, *, n_rows: int = 1, **kwargs: Any) -> list[list[Trajectory]]:
        """Rolls every task out; see Engine.run for the rest."""
        requests = [Request(task, number, n_rows) for number, (task, _) in enumerate(scripts)]
        options = dict(rng=jax.random.key(0), temperature=1.0) | kwargs
        return self.engine.run(self.params(scripts), requests, tools, **options)


def _preceded(before: Callable[[], None], call: Callable) -> Callable:
    def both(*args, **kwargs):
        before()
        return call(*args, **kwargs)

    return both
