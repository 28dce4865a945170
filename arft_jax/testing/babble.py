"""A random policy of the true architecture that babbles, and what its tests compare: eight tasks, three rows each."""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from arft_jax.data.tokenizer import Tokenizer
from arft_jax.models.cache import init_cache
from arft_jax.protocol import Action, Answer, Malformed, ToolCall
from arft_jax.rollout.engine import Engine
from arft_jax.rollout.request import Request
from arft_jax.steps.sampler import make_sampler
from arft_jax.steps.state import init_state
from arft_jax.syntax.tags import TagSyntax
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.trajectory import Observation, Trajectory

# float32 sums over another chunk, slot or program differ in their last bits; log-probs are near -7
LOGPS_TOLERANCE = 1e-5
SIZES = ((28, 28), (28, 56), (56, 56))
N_TASKS, N_ROWS = 8, 3
STOPS = ("e", "ing")  # what ends a babbled turn


class Babble(TagSyntax):
    """A random policy never writes a tag: what its turn asks for follows from the text's checksum."""

    def __init__(self):
        super().__init__([])

    def parse(self, text: str) -> Action:
        """An answer, a search, or nothing."""
        roll = zlib.crc32(text.encode()) % 12
        if roll < 6:
            return Answer(str(roll)) if roll < 4 else Malformed("unlucky")
        return ToolCall("search", {"query": str(roll)})


def reply(task, action, image) -> Observation:
    """0 to 2 images of several sizes and a note, all of them following from the query."""
    roll = int(action.arguments["query"])
    images = (tiny.tiny_image(roll + i, *SIZES[(roll + i) % 3]) for i in range(roll % 3))
    return Observation(f"note {roll} of {task.id}", tuple(images))


class World:
    """One policy, one set of compiled programs, eight tasks of one or two images, three rows each."""

    def __init__(self):
        self.tokenizer = Tokenizer.tiny()
        self.graphdef, self.params = tiny.tiny_policy(self.tokenizer.vocab_size)
        self.rules = tiny.rules_with_stops(self.tokenizer, STOPS)
        self.programs = make_sampler(self.graphdef, decode_steps=4, top_k=0, top_p=1.0)
        self.base = self.engine()
        self.bucket = self.base.renderer.bucket
        self.tasks = [tiny.tiny_task(i, sizes=[SIZES[i % 3], (56, 28)][: 1 + i % 2]) for i in range(N_TASKS)]
        self.requests = [Request(task, 10 + i, N_ROWS) for i, task in enumerate(self.tasks)]
        self.rng = jax.random.key(3)
        self.reference = self.run(self.base, self.requests)
        self.n_compiled = self.programs.n_compiled()

    def engine(
        self,
        decode_steps=None,
        sampler=None,
        options: Mapping[str, Any] | None = None,
        cache_dtype="float32",
        stacked=False,
        bucket_columns=0,
        **limits,
    ) -> Engine:
        """Other slots with the same programs, those of decode_steps apart; keys and values in another type.

        The cache is unstacked, as on CPUs and GPUs, or ``stacked``, as on TPUs.
        """
        sampler = sampler or self.programs
        if decode_steps:
            other = make_sampler(self.graphdef, decode_steps=decode_steps, top_k=0, top_p=1.0)
            sampler = sampler._replace(decode=other.decode, decode_steps=decode_steps)
        config = tiny.tiny_config(vocab_size=self.tokenizer.vocab_size)
        sizes = dataclasses.replace(tiny.LIMITS, **limits)
        cache = init_cache(config.text, sizes.n_slots, sizes.max_tokens, cache_dtype, unstacked=not stacked)
        state = init_state(cache, sizes.n_features, config.text.dim, jnp.float32)
        return tiny.tiny_engine(
            self.graphdef,
            config.text,
            config.text.dim,
            tokenizer=self.tokenizer,
            rules=self.rules,
            sampler=sampler,
            # committed to its device, as build makes it: jit keeps programs of committed and of other arrays apart
            state=jax.device_put(state, jax.devices()[0]),
            bucket_columns=bucket_columns,
            options=options,
            syntax=Babble(),
            **limits,
        )

    def run(self, engine, requests, tools=None, temperature=1.0, **kwargs) -> list[list[Trajectory]]:
        """Rolls out with the world's policy, key and instant tools."""
        tools = tools or tiny.InstantTools(reply)
        return engine.run(self.params, requests, tools, rng=self.rng, temperature=temperature, **kwargs)

    def images_of(self, trajectory) -> dict:
        """{sha256: (patches, grid)} of what a trajectory shows."""
        shown = list(trajectory.task.images)
        for turn in trajectory.turns:
            shown += turn.observation.images if turn.observation else ()
        by_hash = {image.sha256: image for image in shown}
        return {span.sha256: self.base.renderer.patches.get(by_hash[span.sha256]) for span in trajectory.images}


def flat(groups) -> list[Trajectory]:
    """Every trajectory, group by group."""
    return [t for group in groups for t in group]


def record(groups) -> dict[str, np.ndarray]:
    """All that a test compares of trajectories, row behind row, as arrays for a file."""
    rows = flat(groups)
    arrays = ("tokens", "sampler_logps", "loss_mask", "completion_mask", "versions")
    out = {name: np.concatenate([getattr(t, name) for t in rows]) for name in arrays}
    out["positions"] = np.concatenate([t.positions for t in rows], axis=1)
    out["text"] = np.array([turn.text for t in rows for turn in t.turns])
    out["images"] = np.array([f"{s.sha256} {s.start} {s.n} {s.grid}" for t in rows for s in t.images])
    out["row"] = np.array([f"{t.task.id} {t.row} {t.status} {t.prompt_len} {len(t.tokens)}" for t in rows])
    return out


def assert_same(got: Sequence[Trajectory], want: Sequence[Trajectory]) -> None:
    """Token for token and mask for mask; log-probs within the tolerance."""
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert (a.task.id, a.row, a.status, a.prompt_len) == (b.task.id, b.row, b.status, b.prompt_len)
        np.testing.assert_array_equal(a.tokens, b.tokens)
        np.testing.assert_array_equal(a.loss_mask, b.loss_mask)
        np.testing.assert_array_equal(a.positions, b.positions)
        assert [(s.sha256, s.start, s.n, s.grid) for s in a.images] == [
            (s.sha256, s.start, s.n, s.grid) for s in b.images
        ]
        assert [(t.text, t.start, t.end) for t in a.turns] == [(t.text, t.start, t.end) for t in b.turns]
        np.testing.assert_allclose(a.sampler_logps, b.sampler_logps, rtol=0, atol=LOGPS_TOLERANCE)


def assert_equal_bits(got: Sequence[Trajectory], want: Sequence[Trajectory]) -> None:
    """:func:`assert_same`, and log-probs to the last bit."""
    assert_same(got, want)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a.sampler_logps, b.sampler_logps)
