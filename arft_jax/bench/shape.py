"""What every side of the benchmark runs: the model's sizes, the prompts, the turns and the observations."""

import concurrent.futures
import dataclasses
import itertools
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from arft_jax.build.model import model_maker
from arft_jax.build.plan import PolicyPlan, plan_policy
from arft_jax.data.patches import PatchStore
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.models.cache import init_cache
from arft_jax.protocol import Action, ToolCall
from arft_jax.rollout.engine import Engine
from arft_jax.rollout.renderer import Renderer
from arft_jax.rollout.request import Request
from arft_jax.rollout.slots import SlotMachine
from arft_jax.steps.init import init_params
from arft_jax.steps.sampler import Rules, make_sampler
from arft_jax.steps.state import init_state
from arft_jax.syntax.tags import TagSyntax
from arft_jax.tools.context import ToolContext
from arft_jax.tools.toolbox import resolved
from arft_jax.trajectory import Image, Observation, Task, ToolStatus

VOCAB = 32768  # of the model; the tokenizer's own is smaller, ids beyond it write nothing
PROMPT_LEN, IMAGE_PX = 256, 224  # 64 of the prompt's tokens are the image's
TURN_LEN, TEXT_LEN = 64, 128  # sampled tokens of a turn, tokens of the first observation in its frame
GROUPS, GROUP_SIZE, N_TURNS = 4, 8, 3
DECODE_ROWS, DECODE_LEN = 16, 128


class AlwaysSearch(TagSyntax):
    """Every turn, whatever it says, asks the tool."""

    def parse(self, text: str) -> Action:
        """A search."""
        return ToolCall("search", {"query": "go on"})


@dataclasses.dataclass
class Bench:
    """The benchmark's model with random weights; :meth:`engine` makes slots for it."""

    plan: PolicyPlan
    graphdef: nnx.GraphDef
    params: nnx.State
    rules: Rules

    @classmethod
    def make(cls, config) -> "Bench":
        """Weights drawn from the config's seed."""
        plan = plan_policy(config, Tokenizer.tiny(), jax.devices()[:1])
        sizes = dataclasses.replace(plan.sizes, text=dataclasses.replace(plan.sizes.text, vocab_size=VOCAB))
        plan = dataclasses.replace(plan, sizes=sizes)
        graphdef, params = init_params(model_maker(config, sizes, plan.placement), config.seed, plan.placement)
        return cls(plan, graphdef, params, _endless_rules(plan.tokenizer))

    def engine(self, n_slots: int = 0, max_tokens: int = 0) -> Engine:
        """Slots and programs; sizes of the config where 0.

        Args:
          n_slots, max_tokens: rows and length of the cache.
        """
        plan, r = self.plan, self.plan.config.rollout
        n_slots, max_tokens = n_slots or r.n_slots, max_tokens or r.max_tokens
        limits = dataclasses.replace(
            plan.limits, n_slots=n_slots, max_tokens=max_tokens, max_images=0, max_image_pixels=0
        )
        dtype, unstacked = jnp.dtype(plan.config.model.dtype), plan.placement.reads_unstacked_layers
        cache = init_cache(plan.sizes.text, n_slots, max_tokens, dtype, unstacked)
        slots = SlotMachine(
            make_sampler(self.graphdef, decode_steps=r.decode_steps, top_k=r.top_k, top_p=r.top_p),
            init_state(cache, r.n_features, plan.sizes.family.feature_dim(plan.sizes)),
            self.rules,
            limits,
            bucket_columns=r.bucket_columns,
        )
        patches = PatchStore(plan.processor)
        return Engine(slots, Renderer(plan.tokenizer, patches, plan.bucket, lambda task: "", AlwaysSearch([])))

    def task(self, engine: Engine, number: int) -> Task:
        """A prompt of PROMPT_LEN tokens with an image of its own."""
        task = Task(f"bench{number}", "search", "a", (noise(number),), ("7",))
        more = PROMPT_LEN - len(engine.renderer.prompt(task).tokens)
        return dataclasses.replace(task, question="a" + " a" * more)

    def requests(self, engine: Engine, n_tasks: int, n_rows: int, first: int = 0) -> list[Request]:
        """Groups of ``n_rows`` over tasks ``first .. first + n_tasks - 1``."""
        return [Request(self.task(engine, first + i), first + i, n_rows) for i in range(n_tasks)]


def noise(number: int) -> Image:
    """An image that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 256, (IMAGE_PX, IMAGE_PX, 3))
    return Image(pixels.astype(np.uint8), "image_1")


def _endless_rules(tokenizer: Tokenizer) -> Rules:
    """No stop string and no end token is ever met: only the budget of its tokens ends a turn."""
    allowed = np.ones(VOCAB, bool)
    allowed[sorted(tokenizer.control_ids)] = False
    rules = Rules(np.zeros((1, VOCAB), np.uint8), np.full(1, -1, np.int32), allowed, np.asarray(VOCAB, np.int32))
    return jax.device_put(rules)


class ScriptedTools:
    """Text of TEXT_LEN tokens after a trajectory's first turn, an image of 64 tokens after its second.

    Rows of a group end their first turns together, so a task's first ``n_rows`` calls are those of first turns.

    Args:
      engine: whose frame counts in the text's length.
      requests: that are to be served.
      seed: of the images; no two calls get the same one.
      latencies_s: of the calls, in turn; empty: none waits.
      down: every call is an infrastructure failure.
    """

    def __init__(
        self, engine: Engine, requests: list[Request], seed: int = 0, latencies_s: Sequence[float] = (), down=False
    ):
        frame = len(engine.renderer.observation(Observation("a")).tokens)
        self._text = Observation("a" + " a" * (TEXT_LEN - frame))
        self._left = {request.task.id: request.n_rows for request in requests}
        n = sum(self._left.values())
        self._images = iter([noise(100_000 * (seed + 1) + i) for i in range(n)])
        self._late, self._down = itertools.cycle(latencies_s) if latencies_s else None, down
        self._threads = concurrent.futures.ThreadPoolExecutor(max(n, 1)) if latencies_s else None

    def _answer(self, task: Task) -> Observation:
        if self._down:
            return Observation("tool fault", (), ToolStatus.INFRA)
        self._left[task.id] -= 1
        return self._text if self._left[task.id] >= 0 else Observation("", (next(self._images),))

    def submit(self, call: ToolCall, context: ToolContext) -> "concurrent.futures.Future[Observation]":
        """Serves a call, after its latency where there are any."""
        observation = self._answer(context.task)
        if self._threads is None:
            return resolved(observation)
        wait_s = next(self._late)
        return self._threads.submit(lambda: time.sleep(wait_s) or observation)

    def close(self) -> None:
        """Ends the threads."""
        if self._threads is not None:
            self._threads.shutdown()
