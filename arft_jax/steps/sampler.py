"""The sampler's four programs: encode, extend, fork, decode. Each is traced once, at its one shape.

The state is donated; the host keeps no reference to an old one. Indices past the end mean *no row* and
are dropped by the scatters, so that one shape serves any number of rows.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from arft_jax.models.cache import KVCache, first_columns, put_columns
from arft_jax.sampling import pick
from arft_jax.sharding import Placement
from arft_jax.steps.state import BUDGET, NO_STOP, RUNNING, STOPPED, SlotState, state_shardings

LAYERS = ("text", "layers")  # where the stack of the decoder's layers stands in a model's parameters


class Rules(NamedTuple):
    """What decoding obeys, as data.

    Args:
      next_state: int[n_states, V], the stop automaton.
      hit_of: int32[n_states], the index of the stop string that a state completes, or -1.
      allowed: bool[V], False for control tokens that must not be sampled.
      eos: int32[], the end token.
    """

    next_state: jax.Array
    hit_of: jax.Array
    allowed: jax.Array
    eos: jax.Array


class RowSampling(NamedTuple):
    """How each slot is sampled, as data: temperature float32[N], 0 being greedy, and top_p float32[N], 1 being off."""

    temperature: jax.Array
    top_p: jax.Array


class Extension(NamedTuple):
    """One chunk for each of R slots; C tokens.

    slots int32[R] (N: no row); tokens int32[R, C]; n int32[R], tokens that count; start int32[R], the
    column of the first; positions int32[R, 3, C]; feature_index int32[R, C], -1 for ordinary tokens;
    final bool[R]: decoding goes on behind this chunk, with next_position, limit, task and row int32[R].
    """

    slots: jax.Array
    tokens: jax.Array
    n: jax.Array
    start: jax.Array
    positions: jax.Array
    feature_index: jax.Array
    final: jax.Array
    next_position: jax.Array
    limit: jax.Array
    task: jax.Array
    row: jax.Array


class DecodeReport(NamedTuple):
    """What the host reads of one decode segment, apart from the state, which the next call consumes.

    status, stop_code, length int32[N] as in the state behind the segment; tokens int32[N, n_steps] and logps
    float32[N, n_steps]: what a row sampled in this segment, from column 0 on, as many as its length grew.
    """

    status: jax.Array
    stop_code: jax.Array
    length: jax.Array
    tokens: jax.Array
    logps: jax.Array


class UnstackedParams(NamedTuple):
    """Parameters with a second copy of the decoder's layers, one by one, for an unstacked KV cache.

    A product reads a layer of the stack only after copying it (models/cache.py): here that is done once for a rollout,
    not at each token. The stack stays for who else reads ``params``.
    """

    params: nnx.State
    layers: tuple[nnx.State, ...]


def _merged(graphdef, params, cache: KVCache | None = None):
    """(model, the decoder's layers one by one where the cache's are, else None)."""
    states = None
    if isinstance(params, UnstackedParams):
        params, states = params
    model = nnx.merge(graphdef, params)
    return model, model.unstacked_layers(states) if cache is not None and cache.is_unstacked else None


def _encode(graphdef, params, state: SlotState, patches, layout, rows) -> SlotState:
    """Vision tower over chunks of packed patches [C, n, patch_dim]; image token j of all goes to features[rows[j]]."""
    features = _merged(graphdef, params)[0].encode(patches, layout)
    features = features.reshape(-1, features.shape[-1])
    return state._replace(features=state.features.at[rows].set(features.astype(state.features.dtype), mode="drop"))


def _extend(graphdef, params, state: SlotState, ext: Extension, *, columns: int | None = None) -> SlotState:
    """Chunked prefill at each slot's own offset: prompt, tool text and tool image alike.

    Only the cache's first ``columns`` are read, which must hold every fed slot to the end of its chunk.
    """
    model, layers = _merged(graphdef, params, state.cache)
    n_slots, length = state.tokens.shape
    chunk = jnp.arange(ext.tokens.shape[1], dtype=jnp.int32)[None, :]
    cols = jnp.where(chunk < ext.n[:, None], ext.start[:, None] + chunk, length)
    rows = jnp.minimum(ext.slots, n_slots - 1)  # rows without a slot write nowhere: their n is 0
    embeds = model.embed(ext.tokens, state.features, ext.feature_index)
    _, cache = model.hidden_cached(embeds, ext.positions, state.cache, rows, cols, columns, layers)
    final = jnp.where(ext.final, ext.slots, n_slots)

    def put(old, new):
        return old.at[final].set(new, mode="drop")

    end = ext.start + ext.n
    return state._replace(
        tokens=state.tokens.at[ext.slots[:, None], cols].set(ext.tokens, mode="drop"),
        length=put(state.length, end),
        next_position=put(state.next_position, ext.next_position),
        limit=put(state.limit, ext.limit),
        automaton=put(state.automaton, jnp.zeros_like(end)),
        status=put(state.status, jnp.full_like(end, RUNNING)),
        stop_code=put(state.stop_code, jnp.full_like(end, NO_STOP)),
        task=put(state.task, ext.task),
        row=put(state.row, ext.row),
        cache=cache,
    )


def fork_slot(state: SlotState, source, targets, rows, begin) -> SlotState:
    """Copies slot ``source`` (int32[]) into ``targets`` (int32[F], N: none) as ``rows`` (int32[F]) of its group.

    The rows begin at the end of the prompt that all rows of a group share, however far the source has gone on since:
    ``begin``, int32[3], is their length, next position and limit. What the source wrote behind that is never seen.
    """
    n_slots = state.length.shape[0]

    def copy(leaf, axis):
        one = jax.lax.dynamic_slice_in_dim(leaf, source, 1, axis)

        def put(i, kept):  # no target: the source onto itself. As a loop's carry the leaf is changed in place.
            to = jnp.where(targets[i] < n_slots, targets[i], source)
            return jax.lax.dynamic_update_slice_in_dim(kept, one, to, axis)

        return jax.lax.fori_loop(0, targets.shape[0], put, leaf)

    slots_at = 0 if state.cache.is_unstacked else 1
    return _forked(state, lambda leaf: copy(leaf, 0), lambda leaf: copy(leaf, slots_at), targets, rows, begin)


def fork_slot_split(state: SlotState, source, targets, rows, begin) -> SlotState:
    """:func:`fork_slot` where slots are split over devices.

    An index into them would gather every slot to every device first. A masked sum moves the one slot alone, a layer at
    a time, and is exact: all but one of its terms are 0.
    """
    every = jnp.arange(state.length.shape[0], dtype=jnp.int32)
    is_source, is_target = every == source, (every[:, None] == targets[None, :]).any(axis=1)

    def spread(leaf):
        def over(mask):
            return jax.lax.expand_dims(mask, range(1, leaf.ndim))

        copied = jnp.where(over(is_source), leaf, jnp.zeros((), leaf.dtype)).sum(axis=0, dtype=leaf.dtype)
        return jnp.where(over(is_target), copied[None], leaf)

    def spread_cache(leaf):  # as a loop's carry it is changed in place
        return jax.lax.fori_loop(0, leaf.shape[0], lambda layer, kept: kept.at[layer].set(spread(kept[layer])), leaf)

    return _forked(state, spread, spread if state.cache.is_unstacked else spread_cache, targets, rows, begin)


def _forked(state: SlotState, by_slot, by_layer, targets, rows, begin) -> SlotState:
    kept = dict(cache=jax.tree.map(by_layer, state.cache), features=state.features)
    rest = {name: by_slot(leaf) for name, leaf in state._asdict().items() if name not in kept}
    own = dict(row=rows, automaton=0, status=RUNNING, stop_code=NO_STOP)
    own |= dict(zip(("length", "next_position", "limit"), begin, strict=True))
    rest |= {name: rest[name].at[targets].set(value, mode="drop") for name, value in own.items()}
    return SlotState(**rest, **kept)


def _row_keys(rng, state: SlotState) -> jax.Array:
    """keys [N] for each row's next token, from one key for all rows or one for each."""
    if rng.ndim < 2 and rng.dtype == jnp.uint32 or rng.ndim < 1:
        return pick.row_keys(rng, state.task, state.row, state.length)

    def one(key, task, row, position):
        return pick.row_keys(key, task[None], row[None], position[None])[0]

    return jax.vmap(one)(rng, state.task, state.row, state.length)


def _decode_one(model, layers, state: SlotState, rules: Rules, rng, choose, columns):
    """One token for every running row: (state, tokens int32[N], logps float32[N]), the latter 0 in rows that stand.

    ``choose(keys, logits, allowed)`` gives the tokens and their log-probs.
    """
    n_slots, length = state.tokens.shape
    every = jnp.arange(n_slots, dtype=jnp.int32)
    running = state.status == RUNNING
    token = state.tokens[every, jnp.maximum(state.length - 1, 0)]
    here = jnp.where(running, state.length - 1, length)
    positions = jnp.broadcast_to((state.next_position - 1)[:, None, None], (n_slots, 3, 1))
    embeds = model.embed(token[:, None], state.features, jnp.full((n_slots, 1), -1, jnp.int32))
    hidden, cache = model.hidden_cached(embeds, positions, state.cache, None, here[:, None], columns, layers)
    new, logps = choose(_row_keys(rng, state), model.logits(hidden[:, 0]), rules.allowed)
    automaton = rules.next_state[state.automaton, new].astype(jnp.int32)
    hit = rules.hit_of[automaton]
    code = jnp.where(hit >= 0, hit, jnp.where(new == rules.eos, jnp.max(rules.hit_of) + 1, NO_STOP))
    code = jnp.where((code == NO_STOP) & (state.length + 1 >= state.limit), BUDGET, code)
    column = jnp.where(running, state.length, length)

    def keep(new_value, old):
        return jnp.where(running, new_value, old)

    after = state._replace(
        tokens=state.tokens.at[every, column].set(new, mode="drop"),
        logps=state.logps.at[every, column].set(logps, mode="drop"),
        length=keep(state.length + 1, state.length),
        next_position=keep(state.next_position + 1, state.next_position),
        automaton=keep(automaton, state.automaton),
        status=keep(jnp.where(code == NO_STOP, RUNNING, STOPPED), state.status),
        stop_code=keep(code, state.stop_code),
        cache=cache,
    )
    return after, jnp.where(running, new, 0), jnp.where(running, logps, 0.0)


def _decode(
    graphdef,
    params,
    state: SlotState,
    rules: Rules,
    rng,
    temperature: float | RowSampling,
    *,
    n_steps,
    top_k,
    top_p,
    columns: int | None = None,
) -> tuple[SlotState, DecodeReport]:
    """Up to ``n_steps`` tokens; every row advances at its own length and freezes at a stop.

    Only the cache's first ``columns`` are read, which must hold every running row to the end of the segment. ``rng`` is
    one key, or one for each slot. With a :class:`RowSampling` no top_k or top_p of the run's is applied.
    """
    if isinstance(temperature, RowSampling):
        choose = functools.partial(pick.pick_each, temperature=temperature.temperature, top_p=temperature.top_p)
    else:
        choose = functools.partial(pick.pick, temperature=temperature, top_k=top_k, top_p=top_p)
    model, layers = _merged(graphdef, params, state.cache)  # once for all steps
    n_slots, cache, begin = state.length.shape[0], state.cache, state.length - 1
    is_cut = cache.is_unstacked and columns is not None and columns < cache.length
    if is_cut:  # a product would copy the columns that it reads at each step
        state = state._replace(cache=first_columns(cache, columns))

    def unfinished(carry):
        i, state, _, _ = carry
        return (i < n_steps) & jnp.any(state.status == RUNNING)

    def body(carry):
        i, state, tokens, logps = carry
        state, new, new_logps = _decode_one(model, layers, state, rules, rng, choose, columns)
        return i + 1, state, tokens.at[:, i].set(new), logps.at[:, i].set(new_logps)

    seen = jnp.zeros((n_slots, n_steps), jnp.int32), jnp.zeros((n_slots, n_steps), jnp.float32)
    _, state, tokens, logps = jax.lax.while_loop(unfinished, body, (jnp.zeros((), jnp.int32), state, *seen))
    if is_cut:
        written = begin[:, None] + jnp.arange(n_steps, dtype=jnp.int32)[None, :]
        state = state._replace(cache=put_columns(cache, state.cache, written))
    return state, DecodeReport(state.status, state.stop_code, state.length, tokens, logps)


def _one_by_one(stacked: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(stacked[i] for i in range(stacked.shape[0]))


def _layer_place(stacked) -> jax.sharding.Sharding:
    """Where one layer of an array lies, or of its shape: split as the stack is."""
    place = stacked.sharding
    return NamedSharding(place.mesh, PartitionSpec(*place.spec[1:])) if isinstance(place, NamedSharding) else place


def at_path(params, path: Sequence[str]):
    """The part of nested parameters at a path of names."""
    return functools.reduce(lambda part, name: part[name], path, params)


def unstack(one_by_one: Callable[[jax.Array], tuple[jax.Array, ...]], path: Sequence[str], params) -> UnstackedParams:
    """Copies the decoder's layers out of their stack; each copy is split over devices as the stack is.

    Args:
      one_by_one: the layers of one parameter.
      path: where the stack stands in the parameters.
      params: of the model.
    """
    leaves, structure = jax.tree.flatten(at_path(params, path))
    layers = [jax.device_put(one_by_one(leaf), _layer_place(leaf)) for leaf in leaves]
    return UnstackedParams(params, tuple(jax.tree.unflatten(structure, of_one) for of_one in zip(*layers, strict=True)))


def unstacked_shapes(params, path: Sequence[str] = LAYERS) -> UnstackedParams:
    """:func:`unstack` of shapes with shardings."""
    stack = at_path(params, path)
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype, sharding=_layer_place(x)), stack)
    return UnstackedParams(params, (one,) * jax.tree.leaves(stack)[0].shape[0])


def column_counts(size: int, length: int) -> tuple[int | None, ...]:
    """Every ``columns`` that decode and extend are compiled for; None: the whole cache.

    Example: size 128 and length 320: 128, 256, 320.

    Args:
      size: multiples of it, up to what holds the longest row; 0: the whole cache alone.
      length: S of the cache.
    """
    return tuple(min(n + size, length) for n in range(0, length, size)) if size else (None,)


class Sampler(NamedTuple):
    """The compiled programs; ``params`` and ``state`` lead every call but fork and unstack.

    Decode is traced once a temperature, decode and extend once a number of ``columns``. ``decode_each`` is decode with
    a :class:`RowSampling` in the place of the temperature, for rows of different callers.
    """

    encode: jax.stages.Wrapped
    extend: jax.stages.Wrapped
    fork: jax.stages.Wrapped
    decode: jax.stages.Wrapped
    decode_each: jax.stages.Wrapped
    unstack: Callable[[Any], Any]  # params as the others read them; not counted among the programs
    decode_steps: int  # tokens of a segment at most

    def n_compiled(self) -> int:
        """Programs traced so far; constant after warm-up."""
        programs = (self.encode, self.extend, self.fork, self.decode, self.decode_each)
        return sum(program._cache_size() for program in programs)


def make_sampler(
    graphdef,
    *,
    decode_steps: int,
    top_k: int,
    top_p: float,
    state: SlotState | None = None,
    placement: Placement | None = None,
    layers: Sequence[str] = LAYERS,
) -> Sampler:
    """Binds the model's structure and the static settings.

    Args:
      graphdef: of ``nnx.split(model)``.
      decode_steps: tokens of one decode segment.
      top_k, top_p: truncation of the sampling distribution; 0 and 1 switch them off.
      state, placement: the slots, or their shapes, and the mesh over which they stay split; None: one device.
      layers: where the decoder's stack of layers stands in the parameters.

    Returns:
      Programs: encode(params, state, patches, layout, rows), extend(params, state, extension, columns=None),
      fork(state, source, targets, rows, begin), decode(params, state, rules, rng, temperature, columns=None) with a
      static temperature, decode_each with a :class:`RowSampling` there; each returns the new state, the last two a
      :class:`DecodeReport` beside it, and consumes the old.
      ``columns`` is static too: None reads the whole cache.
    """
    decode = functools.partial(_decode, graphdef, n_steps=decode_steps, top_k=top_k, top_p=top_p)
    places, told, fork = None, None, fork_slot
    if placement is not None:
        places, told = state_shardings(state, placement), placement.whole
        fork = fork_slot_split if placement.n_lanes > 1 else fork_slot
    jit = functools.partial(jax.jit, out_shardings=places)
    named = {"static_argnames": "columns"}
    reported = None if places is None else (places, DecodeReport(*[told] * len(DecodeReport._fields)))
    return Sampler(
        encode=jit(functools.partial(_encode, graphdef), donate_argnums=1),
        extend=jit(functools.partial(_extend, graphdef), donate_argnums=1, **named),
        fork=jit(functools.partial(fork), donate_argnums=0),  # a new function: its count is this sampler's own
        decode=jax.jit(decode, donate_argnums=1, static_argnums=4, out_shardings=reported, **named),
        decode_each=jax.jit(functools.partial(decode), donate_argnums=1, out_shardings=reported, **named),
        unstack=functools.partial(unstack, jax.jit(_one_by_one), layers),
        decode_steps=decode_steps,
    )
