"""What a run works with on its devices, made from its plan: model, sampler, first weights."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from arft_jax.build import placement as layout
from arft_jax.build.model import first_params, model_maker, state_maker
from arft_jax.build.plan import PolicyPlan
from arft_jax.data.patches import PatchStore
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io import hosts
from arft_jax.rollout.engine import Engine
from arft_jax.rollout.renderer import Renderer
from arft_jax.rollout.slots import SlotMachine
from arft_jax.sampling.stops import build_stop_table
from arft_jax.steps import learner
from arft_jax.steps.init import abstract_params
from arft_jax.steps.sampler import Rules, make_sampler
from arft_jax.steps.state import make_state


@dataclasses.dataclass(frozen=True)
class Parts:
    """What the loops share.

    Args:
      plan: that they were made from.
      patches: images to patches, each once.
      graphdef: of the policy as it is trained.
      abstract: its parameters as shapes; ``first_params`` makes them.
      rules: stop strings and banned tokens, where rollouts read them.
      allowed: bool[V], the tokens that may be sampled, where training reads them.
      engine: slots and programs of this process's rollouts.
      first_params: the policy at step 0, in its place: published weights, or drawn.
      for_rollout: the policy as trained -> the policy as the engine reads it.
    """

    plan: PolicyPlan
    patches: PatchStore
    graphdef: nnx.GraphDef
    abstract: nnx.State
    rules: Rules
    allowed: jax.Array
    engine: Engine
    first_params: Callable[[], nnx.State]
    for_rollout: Callable[[nnx.State], Any]

    def placed_shapes(self) -> nnx.State:
        """The policy's parameters as shapes with shardings: what a checkpoint is read into."""
        return learner.placed_shapes(self.abstract, self.plan.placement)


def set_up_jax(config) -> None:
    """Persistent compilation cache, before the first compilation."""
    if config.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(config.compilation_cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def make(plan: PolicyPlan) -> Parts:
    """Builds the parts on the mesh of the plan; writes nothing.

    What the engine reads lies on this process's devices alone, what training reads on all of them.
    """
    config, placement = plan.config, plan.placement
    graphdef, abstract = abstract_params(model_maker(config, plan.sizes, placement))
    patches = PatchStore(plan.processor)
    rules = jax.device_put(
        make_rules(plan.tokenizer, plan.offer.syntax.stops, plan.sizes.text.vocab_size), plan.local_placement.whole
    )
    engine = make_engine(plan, rules, patches)
    move = layout.policy_mover(config, abstract, placement, plan.global_placement, plan.local_placement)
    return Parts(
        plan=plan,
        patches=patches,
        graphdef=graphdef,
        abstract=abstract,
        rules=rules,
        allowed=hosts.put(np.asarray(jax.device_get(rules.allowed)), placement.whole),
        engine=engine,
        first_params=functools.partial(first_params, config, plan.sizes, placement),
        for_rollout=lambda params: engine.slots.read(move(params)),
    )


def make_engine(plan: PolicyPlan, rules: Rules, patches: PatchStore) -> Engine:
    """The slots and programs of this process's rollouts.

    Args:
      plan: of the policy.
      rules: stop strings and banned tokens, on this process's devices.
      patches: images to patches.
    """
    r, own = plan.config.rollout, plan.local_placement
    state = make_state(state_maker(plan.config, plan.sizes, own), own)
    graphdef, _ = abstract_params(model_maker(plan.config, plan.sizes, own))
    options = dict(decode_steps=r.decode_steps, top_k=r.top_k, top_p=r.top_p)
    sampler = make_sampler(graphdef, state=state, placement=own, layers=plan.sizes.family.layers, **options)
    return Engine(
        SlotMachine(sampler, state, rules, plan.limits, own, bucket_columns=r.bucket_columns),
        Renderer(plan.tokenizer, patches, plan.bucket, plan.system, plan.offer.syntax),
    )


def make_rules(tokenizer: Tokenizer, stops: Sequence[str], vocab_size: int = 0) -> Rules:
    """Stop strings, the end token, and which tokens may be sampled.

    Args:
      tokenizer: whose ids are sampled.
      stops: strings that end a turn, of the syntax.
      vocab_size: the model's V; published ones are padded beyond the tokenizer's, and padding is never sampled.
    """
    table = build_stop_table(tokenizer.token_bytes(), stops)
    allowed = np.array([len(b) > 0 for b in tokenizer.token_bytes()])
    allowed[sorted(tokenizer.control_ids)] = False
    allowed[tokenizer.eos_id] = True
    rules = Rules(table.next_state, np.asarray(table.hit_of, np.int32), allowed, np.asarray(tokenizer.eos_id, np.int32))
    more = max(vocab_size - tokenizer.vocab_size, 0)
    return rules._replace(
        next_state=np.pad(rules.next_state, ((0, 0), (0, more))), allowed=np.pad(rules.allowed, (0, more))
    )


def check_trained_with(
    tokenizer: Tokenizer, host: Mapping[str, Any], where: str, key: str = "config.tokenizer"
) -> None:
    """Raises a ValueError where a checkpoint was written with other token ids.

    Args:
      tokenizer: the one at hand.
      host: what was saved beside the arrays.
      where: the checkpoint, for the message.
      key: what to change.
    """
    theirs = host.get("tokenizer", "none recorded")
    if theirs != tokenizer.sha256:
        raise ValueError(
            f"the tokenizer must be the one that the checkpoint was trained with: {where} was written with sha256 "
            f"{theirs[:12]}, this one has {tokenizer.sha256[:12]} ({key})"
        )


def describe(parts: Parts) -> str:
    """One line about the model for people."""
    n = sum(leaf.size for leaf in jax.tree.leaves(parts.abstract))
    mesh = parts.plan.placement.mesh
    sizes = "x".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1)
    place = f"{mesh.size} {mesh.devices.flat[0].platform} device(s)" + (f", {sizes}" if sizes else "")
    return f"{n / 1e6:.2f}M parameters, vocabulary {parts.rules.allowed.size}, {place}"
