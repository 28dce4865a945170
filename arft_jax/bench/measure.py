"""One repeat of each figure on this library's side: the real engine, real slots, sampled tokens."""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from arft_jax.bench.shape import (
    DECODE_LEN,
    DECODE_ROWS,
    GROUP_SIZE,
    GROUPS,
    N_TURNS,
    PROMPT_LEN,
    TURN_LEN,
    Bench,
    ScriptedTools,
)
from arft_jax.bench.update import Step, one_each
from arft_jax.data.samples import samples_of
from arft_jax.rollout.engine import Engine
from arft_jax.rollout.trace import Timeline

# What each figure counts a second.
UNITS = {
    "decode": "sampled tokens/s, batch 16 behind 256 tokens",
    "prefill": "prompt tokens/s, 16 prompts with an image each",
    "group_prefill": "prompt tokens/s, 16 rows of 2 prompts with an image each",
    "turns": "trajectories/s of three turns, 32 in groups of 8",
    "train": "tokens/s of a train step, 16 x 384",
}


class Ours:
    """This library's figures; the first repeat of each compiles."""

    def __init__(self, config):
        self.bench, self._config = Bench.make(config), config
        self._repeat, self._rng = 0, jax.random.key(config.seed)
        self._decoder: Engine | None = None
        self._roller: Engine | None = None
        self._train_step: Step | None = None

    def measure(self, name: str) -> float:
        """One repeat: the figure ``name`` in :data:`UNITS`."""
        return getattr(self, f"_{name}")()

    def play(
        self,
        engine: Engine,
        n_tasks: int,
        n_rows: int,
        turn_len: int,
        n_turns: int,
        timeline: Timeline | None = None,
        **tools: Any,
    ):
        """(seconds, groups of trajectories) of a rollout over tasks that were not played before."""
        self._repeat += 1
        lengths = dict(max_turns=n_turns, max_turn_tokens=turn_len)
        requests = self.bench.requests(engine, n_tasks, n_rows, first=100 * self._repeat)
        box = ScriptedTools(engine, requests, seed=self._repeat, **tools)
        begin = time.perf_counter()
        groups = engine.run(
            self.bench.params, requests, box, rng=self._rng, temperature=1.0, timeline=timeline, **lengths
        )
        seconds = time.perf_counter() - begin
        box.close()
        return seconds, groups

    def decoder(self) -> Engine:
        """Slots for the decode and prefill figures."""
        self._decoder = self._decoder or self.bench.engine(DECODE_ROWS, PROMPT_LEN + DECODE_LEN)
        return self._decoder

    def roller(self) -> Engine:
        """Slots for rollouts of three turns."""
        self._roller = self._roller or self.bench.engine()
        return self._roller

    def _decode(self) -> float:
        short, _ = self.play(self.decoder(), DECODE_ROWS, 1, 1, 1)
        long, groups = self.play(self.decoder(), DECODE_ROWS, 1, DECODE_LEN, 1)
        _check_lengths(groups, PROMPT_LEN + DECODE_LEN)
        return DECODE_ROWS * (DECODE_LEN - 1) / (long - short)

    def _prefill(self) -> float:
        return DECODE_ROWS * PROMPT_LEN / self.play(self.decoder(), DECODE_ROWS, 1, 1, 1)[0]

    def _group_prefill(self) -> float:
        n_tasks = DECODE_ROWS // GROUP_SIZE
        return DECODE_ROWS * PROMPT_LEN / self.play(self.decoder(), n_tasks, GROUP_SIZE, 1, 1)[0]

    def _turns(self) -> float:
        seconds, groups = self.play(self.roller(), GROUPS, GROUP_SIZE, TURN_LEN, N_TURNS)
        for trajectory in (t for group in groups for t in group):
            assert len(trajectory.turns) == N_TURNS and trajectory.loss_mask.sum() == N_TURNS * TURN_LEN
            assert len(trajectory.images) == 2
        return GROUPS * GROUP_SIZE / seconds

    def _train(self) -> float:
        """A whole GRPO update, optimiser included, of 16 finished trajectories."""
        if self._train_step is None:
            _, groups = self.play(self.decoder(), DECODE_ROWS, 1, DECODE_LEN, 1)
            rows = [t for group in groups for t in group]
            samples = [
                dataclasses.replace(sample, advantages=np.full(len(sample.tokens), advantage, np.float32))
                for sample, advantage in zip(samples_of(rows), np.linspace(-1, 1, len(rows)), strict=True)
            ]
            images = {image.sha256: image for t in rows for image in t.task.images}
            plan = one_each(samples, PROMPT_LEN + DECODE_LEN, len(rows))
            self._train_step = Step(self.bench, self._config, samples, images, plan)
        return DECODE_ROWS * (PROMPT_LEN + DECODE_LEN) / self._train_step()

    def bound(self) -> float:
        """Tokens/s of the measured bound of decode: the weights that a token passes, in one product of 16 rows."""
        text = self.bench.plan.sizes.text
        tables = self.bench.params["text"]
        n = sum(leaf.size for leaf in jax.tree.leaves(tables))
        weights = jnp.ones((text.dim, n // text.dim), jnp.float32)
        x, seconds = jnp.ones((DECODE_ROWS, text.dim), jnp.float32), []
        for _ in range(4):
            begin = time.perf_counter()
            jax.block_until_ready(x @ weights)
            seconds.append(time.perf_counter() - begin)
        return DECODE_ROWS / min(seconds)

    def costs(self) -> dict[str, float]:
        """What the host did in a rollout of three turns that compiled nothing, beside the device time of a decode call.

        A decode call's device time is a difference: 32 rows sample a long turn, then a turn of one token. The host's
        part of it is what it does between two calls: dispatch, read, parse, keep the record.
        """
        self._turns()
        n_compiled = self.roller().slots.sampler.n_compiled()
        self._turns()
        costs = self.roller().costs

        def alone(turn_len: int) -> tuple[float, int]:
            self.play(self.roller(), GROUPS, GROUP_SIZE, turn_len, 1)
            return self.roller().costs.total_s, self.roller().costs.n_decodes

        (long_s, n_long), (short_s, n_short) = alone(DECODE_LEN), alone(1)
        device_s, host_s = (long_s - short_s) / (n_long - n_short), costs.decode_host_s / costs.n_decodes
        return dataclasses.asdict(costs) | {
            "host_s_a_call": host_s,
            "device_s_a_call": device_s,
            "host_frac_of_a_call": host_s / device_s,
            "n_recompiled": self.roller().slots.sampler.n_compiled() - n_compiled,
        }

    def timeline(self) -> Timeline:
        """The slots of one rollout of three turns over time, tools 0.2 s late."""
        engine = self.roller()
        timeline = Timeline(engine.limits.n_slots)
        self.play(engine, GROUPS, GROUP_SIZE, TURN_LEN, N_TURNS, timeline, latencies_s=(0.2,))
        return timeline


def _check_lengths(groups, length: int) -> None:
    assert all(len(t.tokens) == length for group in groups for t in group)
