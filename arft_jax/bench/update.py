"""Times one update on lengths as rollouts have them: a row for each trajectory, packed rows, shared prompts."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from arft_jax.bench.shape import VOCAB, Bench, noise
from arft_jax.build import settings
from arft_jax.data import packing
from arft_jax.data.batch import assemble, images_fit
from arft_jax.data.packing import Block, MicroBatch
from arft_jax.data.patches import PatchStore
from arft_jax.data.samples import Sample
from arft_jax.steps import learner
from arft_jax.steps.optimizer import init_opt_state, make_apply
from arft_jax.trajectory import Image, ImageSpan

WAYS = ("padded", "packed", "shared")  # a row of max_tokens each; packed; packed, and a group's prompt once
_FIRST_WORD, _LAST_WORD = 10, 900  # token ids that are no control token


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Groups of trajectories to draw.

    Args:
      groups: how many.
      group_size: trajectories of each.
      prompt: shortest and longest prompt, tokens, an image of 64 tokens included.
      completion: shortest and longest completion, tokens, all of them sampled.
    """

    groups: int
    group_size: int
    prompt: tuple[int, int]
    completion: tuple[int, int]


def drawn_samples(bench: Bench, lengths: Lengths, seed: int) -> tuple[list[Sample], dict[str, Image]]:
    """Samples of random words behind a prompt with an image, and the images by hash."""
    rng, samples, images = np.random.default_rng(seed), [], {}
    pad, packing_of = bench.plan.tokenizer.image_pad_id, bench.plan.bucket.packing
    for group in range(lengths.groups):
        image = noise(seed * 1000 + group)
        images[image.sha256] = image
        patches, grid = bench.plan.processor(image.pixels)
        n = len(patches) // packing_of.merge**2
        n_prompt = max(int(rng.integers(lengths.prompt[0], lengths.prompt[1] + 1)), n + 2)
        words = rng.integers(_FIRST_WORD, _LAST_WORD, n_prompt).astype(np.int32)
        words[1 : 1 + n] = pad
        for _ in range(lengths.group_size):
            own = rng.integers(_FIRST_WORD, _LAST_WORD, rng.integers(lengths.completion[0], lengths.completion[1] + 1))
            tokens = np.concatenate([words, own.astype(np.int32)])
            samples.append(
                Sample(
                    tokens=tokens,
                    positions=packing_of.positions(tokens, [grid], pad)[0],
                    loss_mask=np.arange(len(tokens)) >= n_prompt,
                    sampler_logps=np.full(len(tokens), -np.log(VOCAB), np.float32),
                    images=(ImageSpan(image.sha256, 1, n, grid),),
                    group=group,
                    prefix_len=n_prompt,
                    advantages=np.full(len(tokens), rng.normal(), np.float32),
                )
            )
    return samples, images


class Step:
    """One update, optimiser included; the first call compiles where :meth:`compile` did not.

    Args:
      bench: the model.
      config: of the loss and the optimiser.
      samples: what is learnt from.
      images: that they show, by hash.
      plan: in which micro-batches.
      shares_prompts: whether these hold prompts that samples share.
    """

    def __init__(
        self,
        bench: Bench,
        config: Any,
        samples: Sequence[Sample],
        images: Mapping[str, Image],
        plan: Sequence[MicroBatch],
        shares_prompts: bool = False,
    ):
        self._bench, self._samples, self._images, self.plan = bench, samples, images, plan
        self._n_chunks, self._patches = config.train.image_chunks, PatchStore(bench.plan.processor)
        objective = settings.objective(config, "policy")._replace(shares_prompts=shares_prompts)
        optimizer, self._params = settings.optimizer(config), learner.copy_params(bench.params)
        self._opt_state = init_opt_state(optimizer, self._params, bench.plan.placement)
        self._zeros = learner.make_zeros(self._params)
        self._accumulate = learner.make_accumulate(bench.graphdef, objective)
        self._apply = make_apply(optimizer, rounding="nearest")
        n_tokens = sum(sample.loss_mask.sum() for sample in samples)
        counts = (np.float32(n_tokens), np.float32(len(samples)), np.bool_(True))
        self._whole = jax.device_put(learner.Whole(*counts))

    def compile(self) -> None:
        """Runs one micro-batch of each size."""
        self._run(list({(len(micro.rows), micro.width): micro for micro in self.plan}.values()))

    def __call__(self) -> float:
        """Seconds."""
        begin = time.perf_counter()
        self._run(self.plan)
        return time.perf_counter() - begin

    def _run(self, plan: Sequence[MicroBatch]) -> None:
        gradients = self._zeros()
        for micro in plan:
            batch = assemble(
                micro,
                self._samples,
                lambda name: self._patches.get(self._images[name])[0],
                n_chunks=self._n_chunks,
                bucket=self._bench.plan.bucket,
            )
            batch = jax.device_put(batch)
            gradients, _ = self._accumulate(self._params, gradients, batch, self._bench.rules.allowed, self._whole)
        self._params, self._opt_state, stats = self._apply(self._params, self._opt_state, gradients, jnp.float32(1e-4))
        jax.block_until_ready(stats)


def one_each(samples: Sequence[Sample], width: int, n_rows: int) -> list[MicroBatch]:
    """A row of ``width`` tokens for each sample, ``n_rows`` a micro-batch."""
    rows = [(Block((i,), 0),) for i in range(len(samples))]
    return [MicroBatch(tuple(rows[k : k + n_rows]), width) for k in range(0, len(rows), n_rows)]


def _plan(bench: Bench, config: Any, samples: Sequence[Sample], way: str) -> list[MicroBatch]:
    sizes = settings.pack_sizes(config, 1, bench.plan.sizes.text.dim)._replace(shares_prompts=way == "shared")
    if way == "padded":
        return one_each(samples, sizes.max_tokens, sizes.n_rows(sizes.max_tokens))
    return packing.plan_update(samples, sizes, images_fit(samples, config.train.image_chunks, bench.plan.bucket))


def bench_update(
    config: Any, lengths: Lengths, *, rounds: int, seed: int = 0, on_round: Callable[[str, float], None] | None = None
) -> dict[str, Any]:
    """Times the three ways in turn, ``rounds`` times.

    Args:
      config: of the model, ``rollout.max_tokens`` and ``train.micro_tokens``.
      lengths: what is drawn.
      rounds: timed updates of each way, once all is compiled.
      seed: of lengths, words and images.
      on_round: called with each way and its seconds.

    Returns:
      ``n_tokens`` of all samples; for each way ``seconds`` (all rounds), ``computed`` tokens, ``packing_frac``,
      ``shared_frac`` and ``tokens_per_s``, tokens of samples a second at the median.
    """
    bench = Bench.make(config)
    samples, images = drawn_samples(bench, lengths, seed)
    n_tokens = sum(len(sample.tokens) for sample in samples)
    steps = {
        way: Step(bench, config, samples, images, _plan(bench, config, samples, way), way == "shared") for way in WAYS
    }
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for step in steps.values():
        step.compile()
    for _ in range(rounds):
        for way, step in steps.items():
            seconds[way].append(step())
            if on_round is not None:
                on_round(way, seconds[way][-1])
    return {"n_tokens": n_tokens, "ways": {way: _told(steps[way], samples, seconds[way], n_tokens) for way in WAYS}}


def _told(step: Step, samples: Sequence[Sample], seconds: list[float], n_tokens: int) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "computed": sum(micro.n_computed for micro in step.plan),
        "tokens_per_s": n_tokens / float(np.median(seconds)),
        **packing.figures(step.plan, samples),
    }


def format_text(result: Mapping[str, Any]) -> str:
    """A table of what :func:`bench_update` gave."""
    lines = [f"{result['n_tokens']} tokens of trajectories", "way      seconds  tokens/s  computed  full  speed"]
    first = result["ways"]["padded"]["tokens_per_s"]
    for way, found in result["ways"].items():
        lines.append(
            f"{way:7s} {np.median(found['seconds']):8.2f} {found['tokens_per_s']:9.0f} {found['computed']:9d}  "
            f"{found['packing_frac']:.2f}  {found['tokens_per_s'] / first:.2f}"
        )
    return "\n".join(lines)
