"""Decode at a published size behind long caches: tokens a second, the share of the memory's bound, peers.

What is timed is one call of the rollout's own decode program, sampling and the host's reading of it included, on one
device. Every repeat starts at the same length. Weights are random, and so is the cache: a prefill's values would cost
minutes and change neither what a step reads nor what it computes.

The bound is what the memory allows: a step reads every weight of the decoder once (of a table that is not also the
unembedding only a row a slot, which is left out), and the keys and values of every column that a row has reached.
"""

import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from arft_jax.bench.peers import Peer
from arft_jax.bench.run import OURS, machine, ratios, spread, versions
from arft_jax.build.model import model_maker
from arft_jax.build.parts import set_up_jax
from arft_jax.build.plan import plan_policy
from arft_jax.config import default_config
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io import terminal
from arft_jax.models.cache import Layers, init_cache
from arft_jax.models.families import DEFAULT
from arft_jax.steps.init import abstract_params, init_params
from arft_jax.steps.param_edits import make_copy, make_put_layer
from arft_jax.steps.sampler import Rules, UnstackedParams, make_sampler
from arft_jax.steps.state import NO_STOP, RUNNING, SlotState, init_state, make_state

SIZES = ("tiny", *DEFAULT.sizes)
MIN_CONTEXT = 4  # a peer warms its memory with two tokens
_PROBE_BYTES = {"cpu": 2**27}  # of the array that measures the bandwidth, else 2 GiB: far beyond any cache
_PROBES = 5


def decode_config(size: str, n_slots: int, n_steps: int) -> Any:
    """The default config with bfloat16 weights of a size; ``tiny`` is the default model of 1M parameters.

    Raises:
      ValueError: another size, or fewer than one slot or step.
    """
    if size not in SIZES or n_slots < 1 or n_steps < 1:
        raise ValueError(
            f"size must be one of {', '.join(SIZES)}, slots and steps at least 1: got {size!r}, {n_slots}, {n_steps} "
            "(--size, --slots, --steps)"
        )
    config = default_config()
    config.name = f"decode_{size}"
    config.model.update(size="" if size == "tiny" else size, dtype="bfloat16", param_dtype="bfloat16")
    config.rollout.update(n_slots=n_slots, decode_steps=n_steps)
    return config


class Decoder:
    """Slots that decode behind a full cache. Nothing lies on the device before :meth:`draw` and :meth:`fill`.

    Args:
      config: of :func:`decode_config`.
    """

    def __init__(self, config: Any):
        self.n_slots, self.n_steps, self._seed = config.rollout.n_slots, config.rollout.decode_steps, config.seed
        self.dtype, self._n_features = jnp.dtype(config.model.dtype), config.rollout.n_features
        plan = plan_policy(config, Tokenizer.tiny(), jax.devices()[:1])
        self.sizes, self.placement = plan.sizes, plan.placement
        self._make_model = model_maker(config, self.sizes, self.placement)
        self.graphdef, self.abstract = abstract_params(self._make_model)
        self.params: Any = None
        self.state: SlotState | None = None
        self.context = 0

    # ------------------------------------------------------------------ bytes

    @property
    def param_bytes(self) -> int:
        """Of all weights, the vision tower's too; the decoder's layers twice where they are kept apart."""
        copied = self.abstract["text"]["layers"] if self.placement.reads_unstacked_layers else ()
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((self.abstract, copied)))

    @property
    def weight_bytes(self) -> int:
        """Of the weights that a step reads."""
        text = self.sizes.text
        n = sum(leaf.size for leaf in jax.tree.leaves(self.abstract["text"]))
        return (n - (0 if text.tied else text.vocab_size * text.dim)) * self.dtype.itemsize

    @property
    def column_bytes(self) -> int:
        """Of the keys and values of one token."""
        text = self.sizes.text
        return 2 * text.n_layers * text.n_kv_heads * text.head_dim * self.dtype.itemsize

    def step_bytes(self, context: int) -> float:
        """What a step reads at least, in the middle of a call.

        Step i sees context + i columns: of 4 steps behind 10 the mean is 11.5.
        """
        return self.weight_bytes + self.n_slots * (context + (self.n_steps - 1) / 2) * self.column_bytes

    def check_memory(self, contexts: Sequence[int], memory_bytes: int) -> None:
        """Raises a ValueError where weights and the longest cache do not fit."""
        n_columns = max(contexts) + self.n_steps
        cache_bytes = self.n_slots * n_columns * self.column_bytes
        if self.param_bytes + cache_bytes > memory_bytes:
            raise ValueError(
                f"weights and KV cache must fit the device's memory: got {self.param_bytes / 1e9:.2f} GB and "
                f"{cache_bytes / 1e9:.2f} GB ({self.n_slots} slots of {n_columns} columns), "
                f"{memory_bytes / 1e9:.2f} GB there (--size, --slots, --contexts; XLA_PYTHON_CLIENT_MEM_FRACTION is "
                "JAX's share of a GPU)"
            )

    # -------------------------------------------------------------- on the device

    def draw(self) -> None:
        """Draws the weights, on the device."""
        self.params = init_params(self._make_model, self._seed, self.placement)[1]

    def fill(self, context: int) -> None:
        """Slots of ``context`` tokens with room for a call; the cache holds normal numbers.

        Every column of every layer is drawn, a layer at a time: beside the cache only one layer's numbers are held.
        """
        text, length = self.sizes.text, context + self.n_steps
        self.state, self.context = None, context  # the old cache goes before the new one comes

        def make() -> SlotState:
            cache = init_cache(text, self.n_slots, length, self.dtype, self.placement.reads_unstacked_layers)
            return init_state(cache, self._n_features, text.dim)

        state = make_state(make, self.placement)
        key = jax.random.key(self._seed)

        def numbers(layer: int, like: jax.Array) -> jax.Array:
            return jax.random.normal(jax.random.fold_in(key, layer), like.shape[-4:], like.dtype)

        def drawn(layers: Layers, first: int) -> Layers:
            if isinstance(layers, tuple):
                return tuple(jax.device_put(numbers(first + i, a), a.sharding) for i, a in enumerate(layers))
            put = make_put_layer(layers.sharding)
            for layer in range(text.n_layers):
                layers = put(layers, numbers(first + layer, layers), np.int32(layer))
            return layers

        cache = state.cache._replace(k=drawn(state.cache.k, 0), v=drawn(state.cache.v, text.n_layers))
        self.state = state._replace(cache=cache)
        self._rules = jax.device_put(_endless_rules(text.vocab_size), self.placement.whole)
        self._keys = jax.device_put(np.zeros((self.n_slots, 2), np.uint32), self.placement.whole)
        self.sampler = make_sampler(
            self.graphdef, decode_steps=self.n_steps, top_k=0, top_p=1.0, state=self.state, placement=self.placement
        )
        if self.state.cache.is_unstacked and not isinstance(self.params, UnstackedParams):
            self.params = self.sampler.unstack(self.params)

    def _rewind(self) -> SlotState:
        """Every row runs from ``context`` again; the columns behind it are written again."""
        state = self.state

        def rows(number: Any, like: jax.Array) -> jax.Array:
            return jax.device_put(np.broadcast_to(np.int32(number), like.shape).copy(), like.sharding)

        words = dict(
            length=self.context, next_position=self.context, limit=self.context + self.n_steps + 1, automaton=0,
            status=RUNNING, stop_code=NO_STOP, task=0, row=np.arange(self.n_slots),
        )  # fmt: skip
        return state._replace(**{name: rows(word, getattr(state, name)) for name, word in words.items()})

    def call(self) -> tuple[float, Any]:
        """(seconds of a decode call, its report on the host)."""
        state = jax.block_until_ready(self._rewind())
        begin = time.perf_counter()
        self.state, report = self.sampler.decode(self.params, state, self._rules, self._keys, 1.0)
        report = jax.device_get(report)
        return time.perf_counter() - begin, report

    def measure(self) -> float:
        """One repeat: sampled tokens/s of all slots."""
        seconds, report = self.call()
        assert (report.length == self.context + self.n_steps).all()
        return self.n_slots * self.n_steps / seconds


def _endless_rules(vocab_size: int) -> Rules:
    """Every token may be sampled and none ends a turn."""
    return Rules(
        np.zeros((1, vocab_size), np.uint8), np.full(1, -1, np.int32), np.ones(vocab_size, bool), np.int32(vocab_size)
    )


def memory_of(device: jax.Device) -> int:
    """Bytes that JAX may use: the allocator's limit, on a CPU the machine's memory."""
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def bandwidth(device: jax.Device) -> dict[str, float]:
    """Bytes/s of the device's memory, the best of some tries: of a copy (read and written) and of a sum (read)."""
    n_bytes = _PROBE_BYTES.get(device.platform, 2**31)
    x = jax.device_put(jnp.ones(n_bytes // 4, jnp.float32), device)

    def best_s(run: Callable[[jax.Array], jax.Array]) -> float:
        seconds = []
        for _ in range(_PROBES + 1):  # the first compiles
            begin = time.perf_counter()
            jax.block_until_ready(run(x))
            seconds.append(time.perf_counter() - begin)
        return min(seconds[1:])

    return {"copy": 2 * n_bytes / best_s(make_copy(None)), "read": n_bytes / best_s(jnp.sum)}


def fit_rows(peer: Any, request: Mapping[str, Any], n_rows: int) -> int:
    """The most rows that a peer holds: ``n_rows``, else halves of it. What is asked here warms the peer.

    Raises:
      ValueError: it holds not even one.
    """
    while peer.measure(json.dumps({**request, "rows": n_rows})) == 0:
        if n_rows == 1:
            raise ValueError(
                f"{peer.name} must hold a row of {request['context']} tokens in the memory that is left: it does not "
                "(--slots, --contexts)"
            )
        n_rows //= 2
    return n_rows


def sit(decoder: Decoder, peers: Sequence[Any], context: int, repeats: int, bytes_s: float) -> dict[str, Any]:
    """One context length: every side ``repeats`` times, one after the other in every round."""
    decoder.fill(context)
    decoder.measure()  # compiles
    text = decoder.sizes.to_hf()["text_config"]
    request = dict(text=text, context=context, steps=decoder.n_steps, dtype=decoder.dtype.name)
    sides, rows = {OURS: decoder.measure}, {OURS: decoder.n_slots}
    for peer in peers:
        for kind in peer.figures:
            name, asked = f"{peer.name}_{kind}", {**request, "cache": kind}
            rows[name] = fit_rows(peer, asked, decoder.n_slots)
            sides[name] = functools.partial(peer.measure, json.dumps({**asked, "rows": rows[name]}))
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            rates[name].append(side())
    if not all(rate > 0 for values in rates.values() for rate in values):
        raise ValueError(f"a peer ran out of memory in a later round: got {rates} (--slots, --contexts)")
    bound = decoder.n_slots * bytes_s / decoder.step_bytes(context)
    spreads = {name: spread(values) for name, values in rates.items()}
    return {
        "rows": rows,
        "rates": rates,
        "spread": spreads,
        "ms_a_step": {name: 1e3 * rows[name] / values["median"] for name, values in spreads.items()},
        "ratio_to": ratios(rates),
        "step_bytes": decoder.step_bytes(context),
        "bound": bound,
        "share_of_bound": spread([rate / bound for rate in rates[OURS]]),
    }


def context_line(context: int, result: Mapping[str, Any]) -> str:
    """A context length for people: medians of every side, the share of the bound, ratios as min / median / max."""
    sides = ", ".join(
        f"{name} {values['median']:.0f} tokens/s "
        f"({result['rows'][name]} rows, {result['ms_a_step'][name]:.2f} ms a step)"
        for name, values in result["spread"].items()
    )
    against = "".join(
        f"; {r['min']:.2f} / {r['median']:.2f} / {r['max']:.2f} times {name}" for name, r in result["ratio_to"].items()
    )
    share = 100 * result["share_of_bound"]["median"]
    return f"context {context}: {sides}; {share:.0f} % of the bound of {result['bound']:.0f} tokens/s{against}"


def bench(
    size: str,
    contexts: Sequence[int],
    *,
    n_slots: int = 64,
    n_steps: int = 64,
    repeats: int = 5,
    against: Mapping[str, tuple[str, str]] | None = None,
) -> dict[str, Any]:
    """Runs a sitting on the first device.

    Args:
      size: in :data:`SIZES`.
      contexts: tokens of each row when a decode call begins.
      n_slots: rows.
      n_steps: tokens of a decode call.
      repeats: timed calls.
      against: (python, script) by peer.

    Raises:
      ValueError: settings out of range, more than the device holds, or a peer that cannot be run.
    """
    config = decode_config(size, n_slots, n_steps)
    if not contexts or min(contexts) < MIN_CONTEXT or repeats < 1:
        raise ValueError(
            f"contexts must be at least {MIN_CONTEXT} tokens and repeats at least 1: got {list(contexts)}, {repeats} "
            "(--contexts, --repeats)"
        )
    device, decoder = jax.devices()[0], Decoder(config)
    decoder.check_memory(contexts, memory_of(device))
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(name, *where)) for name, where in (against or {}).items()]
        for peer in peers:
            if (peer.versions["device"] == "cpu") != (device.platform == "cpu"):
                raise ValueError(
                    f"{peer.name} must run on the same device: got {peer.versions['device']}, here "
                    f"{device.device_kind} (--{peer.name}_python)"
                )
        set_up_jax(config)
        speeds = bandwidth(device)
        result: dict[str, Any] = {
            "machine": {**machine(), "device": device.device_kind, "memory_bytes": memory_of(device)},
            "versions": versions(peers),
            "model": {"size": size, "weight_bytes": decoder.weight_bytes, "column_bytes": decoder.column_bytes},
            "cache": "random values, not a prefill's",
            "steps": n_steps,
            "bandwidth_bytes_s": speeds,
            "contexts": {},
        }
        decoder.draw()
        for context in sorted(set(contexts), reverse=True):  # later caches use the memory of the longest
            figures = sit(decoder, peers, context, repeats, max(speeds.values()))
            terminal.say(context_line(context, figures), file=sys.stderr)
            result["contexts"][str(context)] = figures
    return result


def format_text(result: Mapping[str, Any]) -> str:
    """The sitting for people."""
    speeds = ", ".join(f"{name} {speed / 1e9:.0f}" for name, speed in result["bandwidth_bytes_s"].items())
    lines = [context_line(int(context), figures) for context, figures in result["contexts"].items()]
    return "\n".join([f"{result['machine']['device']}, GB/s: {speeds}; cache: {result['cache']}", *lines])
