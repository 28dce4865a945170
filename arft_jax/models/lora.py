"""What is trained of a model: low-rank adapters, y = x W + (α / r) (x A) B with W frozen, or all but frozen parts.

LoRA (arXiv 2106.09685, section 4.1): A is drawn, B starts at 0, so a fresh adapter changes nothing. Departure: adapters
are float32 whatever the type of the frozen kernel, since only they accumulate small updates.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
VISION_TARGETS = ("qkv", "proj", "gate", "up", "down")  # what ``vision`` adapts


class LoraParam(nnx.Param):
    """A or B of an adapter: what is trained where there is one."""


@dataclasses.dataclass(frozen=True)
class Lora:
    """Which linear maps are adapted and how.

    Args:
      rank: r; 0: none.
      alpha: α; the adapter is scaled by alpha / rank.
      targets: names of the decoder's linear maps.
      vision: the vision blocks' linear maps too.
      vision_targets: which of them.
      rslora: scaled by alpha / √rank in place of alpha / rank (arXiv 2312.03732).
    """

    rank: int = 0
    alpha: float = 16.0
    targets: tuple[str, ...] = TARGETS
    vision: bool = False
    vision_targets: tuple[str, ...] = VISION_TARGETS
    rslora: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.targets if name not in TARGETS]
        unknown += [name for name in self.vision_targets if name not in VISION_TARGETS]
        in_vision = self.vision and self.vision_targets
        nothing = self.rank and not self.targets and not in_vision  # which would train every parameter
        if self.rank < 0 or (self.rank and not self.alpha > 0) or unknown or nothing:
            raise ValueError(
                f"an adapter must have rank >= 0, alpha > 0 and targets among {', '.join(TARGETS)}, or vision and "
                f"vision_targets among {', '.join(VISION_TARGETS)}: got rank={self.rank}, alpha={self.alpha}, "
                f"targets={self.targets}, vision={self.vision}, vision_targets={self.vision_targets} "
                "(config.model.lora)"
            )

    @property
    def scale(self) -> float:
        """α / r, or α / √r."""
        if self.rslora:
            return self.alpha / math.sqrt(self.rank)
        return self.alpha / self.rank

    def of_text(self, name: str) -> "Lora | None":
        """This where the decoder's linear map ``name`` is adapted."""
        return self if self.rank and name in self.targets else None

    def of_vision(self, name: str) -> "Lora | None":
        """This where the vision blocks' linear map ``name`` is adapted."""
        return self if self.rank and self.vision and name in self.vision_targets else None


NO_LORA = Lora()


def freeze(part: nnx.Module) -> None:
    """Marks every parameter of a part of the model as not to be trained; the mark stays with it wherever it goes."""
    for _, node in nnx.iter_graph(part):
        if isinstance(node, nnx.Param):
            node.set_metadata("frozen", True)


def split_trainable(params: nnx.State) -> tuple[nnx.State, nnx.State]:
    """(trained, frozen): the adapters and the rest; where there is no adapter, all but what :func:`freeze` has marked,
    and what it has."""
    adapters, rest = nnx.split_state(params, LoraParam, ...)
    if jax.tree.leaves(adapters):
        return adapters, rest
    frozen, trained = nnx.split_state(params, lambda _, leaf: leaf.get_metadata("frozen", False), ...)
    return trained, frozen


def with_trained(params: nnx.State, trained: nnx.State) -> nnx.State:
    """The policy with ``trained`` in place of its own trained part; the frozen base is shared, nothing is copied."""
    return nnx.merge_state(trained, split_trainable(params)[1])


def without_adapters(params: nnx.State) -> nnx.State:
    """The frozen base as a policy of the same structure: every B is 0."""

    def zero(path: tuple[Any, ...], value: jax.Array) -> jax.Array:
        return jnp.zeros_like(value) if "lora_b" in jax.tree_util.keystr(path, simple=True, separator=".") else value

    return jax.tree_util.tree_map_with_path(zero, params)


def merged(params: nnx.State, scale: float) -> nnx.State:
    """The parameters of the model without adapters that computes the same: W + scale · A B.

    Products and sums are float32; the kernel's type comes back.
    """
    flat = dict(nnx.to_flat_state(params))
    out = {keys: variable for keys, variable in flat.items() if keys[-1] not in ("lora_a", "lora_b")}
    for keys, a in flat.items():
        if keys[-1] == "lora_a":
            kernel, b = flat[(*keys[:-1], "kernel")], flat[(*keys[:-1], "lora_b")]

            def product(one_a: jax.Array, one_b: jax.Array) -> jax.Array:
                return jnp.tensordot(one_a, one_b, axes=1)

            stacked = kernel.get_metadata("axes")[0] == "layers"
            change = (jax.vmap(product) if stacked else product)(a[...], b[...])
            value = kernel[...].astype(jnp.float32) + scale * change
            out[(*keys[:-1], "kernel")] = kernel.replace(value.astype(kernel.dtype))
    return nnx.from_flat_state(list(out.items()))
