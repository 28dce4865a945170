"""What a compiled program costs one device, read from its optimised HLO text: operations, and bytes sent to others.

The counting rules are those of XLA (xla/service/hlo_cost_analysis.cc), with these departures:

1. A loop's body counts as often as it runs: XLA counts it once.
2. Products alone are counted (dot, convolution, matrix and attention kernels), not elementwise work.
3. Kernels that XLA cannot look into are counted by their shapes (:func:`_kernel_flops`).
4. Of a conditional's branches each counts by its share, not the costliest alone (:func:`count`).

Bytes are what one device sends, by the bandwidth-optimal algorithms, n devices in a group, x the bytes it gives in::

    all-gather          x (n - 1)        (its output is n x)
    all-reduce          2 x (n - 1) / n
    reduce-scatter      x (n - 1) / n
    all-to-all          x (n - 1) / n
    collective-permute  x
"""

import dataclasses
import json
import math
import re
from collections.abc import Sequence

from arft_jax.compile_check import hlo_text
from arft_jax.compile_check.hlo_text import Computation, Instruction

SENT = {
    "all-gather": lambda x, n: x * (n - 1),
    "all-reduce": lambda x, n: 2 * x * (n - 1) / n,
    "reduce-scatter": lambda x, n: x * (n - 1) / n,
    "all-to-all": lambda x, n: x * (n - 1) / n,
    "collective-permute": lambda x, n: x if n > 1 else 0.0,
}
# Custom calls that may hold products: one of these that is not understood makes the count a lower bound.
_KERNEL = re.compile(r"tpu_custom_call|triton|mosaic|cublas|cudnn|gemm|matmul|dot|conv", re.IGNORECASE)
_SPLASH = re.compile(r"splash_m[qh]a_(fwd|dkv|dq)")
# Products of one query-key block: q k and p v; q k, dO v, p dO and ds q; q k, dO v and ds k.
_SPLASH_PRODUCTS = {"fwd": 2, "dkv": 4, "dq": 3}
_FLOATS = ("bf16", "f16", "f32")


@dataclasses.dataclass(frozen=True)
class Costs:
    """What one call of a program costs one device.

    Args:
      flops: operations in products; a multiplication and its addition are two.
      sent_bytes: to other devices, by kind of exchange.
      exchanges: how often each kind is run.
      unseen: kernels that may hold products and are not understood; with any, ``flops`` is a lower bound.
      open_loops: loops whose length the text does not tell.
    """

    flops: float = 0.0
    sent_bytes: dict[str, float] = dataclasses.field(default_factory=dict)
    exchanges: dict[str, float] = dataclasses.field(default_factory=dict)
    unseen: frozenset[str] = frozenset()
    open_loops: int = 0

    def __add__(self, other: "Costs") -> "Costs":
        return Costs(
            self.flops + other.flops,
            _sum(self.sent_bytes, other.sent_bytes),
            _sum(self.exchanges, other.exchanges),
            self.unseen | other.unseen,
            self.open_loops + other.open_loops,
        )

    def times(self, n: float) -> "Costs":
        """The cost of n runs."""
        if n == 0:
            return Costs()
        return dataclasses.replace(
            self,
            flops=self.flops * n,
            sent_bytes={kind: x * n for kind, x in self.sent_bytes.items()},
            exchanges={kind: x * n for kind, x in self.exchanges.items()},
        )


def _sum(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
    return {kind: a.get(kind, 0.0) + b.get(kind, 0.0) for kind in {**a, **b}}


def count(text: str, *, open_trips: float = 1, shares: Sequence[float] = ()) -> Costs:
    """Costs of one call of a program.

    Args:
      text: of the module after optimisation, as ``compiled.as_text()`` gives it.
      open_trips: how often a loop runs whose length the text does not tell.
      shares: of a conditional with as many branches as there are shares, how often each is taken; for those alone of
        which more than one branch holds products. Of any other conditional the costliest branch counts: one that
        skips work is taken not to.

    Raises:
      ValueError: text that is not an HLO module.
    """
    module = hlo_text.parse(text)
    return _Counter(module, open_trips, shares).of(module.entry)


class _Counter:
    """Adds up a module; a computation is counted once and remembered."""

    def __init__(self, module: hlo_text.Module, open_trips: float, shares: Sequence[float]):
        self.module, self.open_trips, self.shares = module, open_trips, shares
        self.done: dict[str, Costs] = {}

    def of(self, name: str) -> Costs:
        if name not in self.done:
            comp = self.module.computations[name]
            total = Costs()
            for instruction in comp.instructions.values():
                total += self._one(instruction, comp)
            self.done[name] = total
        return self.done[name]

    def _one(self, i: Instruction, comp: Computation) -> Costs:
        if i.op == "while":
            trips = hlo_text.trip_count(i, comp, self.module)
            one = self.of(i.called("body"))
            if trips is None:
                trips, one = self.open_trips, one + Costs(open_loops=1)
            return one.times(trips) + self.of(i.called("condition")).times(trips + 1)
        if i.op == "conditional":
            return self._branches([self.of(name) for name in i.branches()])
        op = i.op.removesuffix("-start")  # the start of an asynchronous pair stands for both
        if op in ("fusion", "call", "async"):
            return self.of(i.called("calls") or i.called("to_apply"))
        if op == "dot":
            return Costs(flops=_dot_flops(i, comp))
        if op == "convolution":
            return Costs(flops=_convolution_flops(i, comp))
        if op == "custom-call":
            return _kernel(i, comp)
        return _exchange(op, i, comp, self.module.n_devices) if op in SENT else Costs()

    def _branches(self, branches: list[Costs]) -> Costs:
        computing = [one for one in branches if one.flops]
        if len(computing) > 1 and len(branches) == len(self.shares):
            weighed = [one.times(share) for one, share in zip(branches, self.shares, strict=True)]
            return sum(weighed, start=Costs())
        return max(branches, key=lambda one: (one.flops, sum(one.sent_bytes.values())))


def _exchange(kind: str, i: Instruction, comp: Computation, n_devices: int) -> Costs:
    # TPU spreads one gather over the products that hide it: the same exchange stands in each of several fusions, and
    # the one that a start call takes is counted.
    if "async_collective_fusion_config" in i.attributes and not any(
        i.name in other.operands and "AsyncCollectiveStart" in other.attributes for other in comp.instructions.values()
    ):
        return Costs()
    if kind == "all-reduce" and "all-reduce-scatter" in comp.name:  # TPU: each device keeps its part alone
        kind = "reduce-scatter"
    given = sum(hlo_text.n_bytes(comp.instructions[name].shape) for name in i.operands)
    sent = SENT[kind](given, hlo_text.group_size(i, n_devices))
    return Costs(sent_bytes={kind: sent}, exchanges={kind: 1.0})


def _dims(i: Instruction) -> tuple[int, ...]:
    return hlo_text.arrays(i.shape)[0][1]


def _operands(i: Instruction, comp: Computation) -> list[tuple[int, ...]]:
    return [_dims(comp.instructions[name]) for name in i.operands]


def _dot_flops(i: Instruction, comp: Computation) -> float:
    """2 x output elements x contracted elements."""
    left = _operands(i, comp)[0]
    contracted = [left[d] for d in i.ints("lhs_contracting_dims")]
    return 2.0 * math.prod(_dims(i)) * math.prod(contracted)


def _convolution_flops(i: Instruction, comp: Computation) -> float:
    """2 x batch x input features x output features x positions of kernel and output that meet real input.

    Padding is not work: TPU writes a plain product as a convolution over a padded input of size 1.
    """
    left, right = _operands(i, comp)[:2]
    left_labels, right_labels, out_labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.attributes).groups()
    spatial = sorted(label for label in left_labels if label.isdigit())
    window = hlo_text.window(i, len(spatial))
    positions = 1
    for label, (size, stride, low, left_dilation, right_dilation) in zip(spatial, window, strict=True):
        positions *= _meeting(
            left[left_labels.index(label)], _dims(i)[out_labels.index(label)], size, stride, low, left_dilation,
            right_dilation,
        )  # fmt: skip
    groups = int(i.value("feature_group_count", "1"))
    batches = int(i.value("batch_group_count", "1"))
    features = left[left_labels.index("f")] // groups * right[right_labels.index("o")]
    return 2.0 * (left[left_labels.index("b")] // batches) * features * positions


def _meeting(n_in: int, n_out: int, size: int, stride: int, low: int, left_dilation: int, right_dilation: int) -> int:
    """Pairs (output o, kernel k) for which o*stride + k*right_dilation - low is a real input position.

    For example n_in=1, n_out=3, size=3, low=2: o + k = 2 in three pairs.
    """
    reach = (n_in - 1) * left_dilation  # the last real position
    pairs = 0
    for k in range(size):
        at = k * right_dilation - low
        if left_dilation == 1:
            first = max(0, -(at // stride))
            last = min(n_out - 1, (reach - at) // stride)
            pairs += max(0, last - first + 1)
        else:
            places = range(at, at + n_out * stride, stride)
            pairs += sum(0 <= p <= reach and p % left_dilation == 0 for p in places)
    return pairs


def _kernel(i: Instruction, comp: Computation) -> Costs:
    target = i.value("custom_call_target", "").strip('"')
    flops = _kernel_flops(target, i, comp)
    if flops is None:
        return Costs(unseen=frozenset({target})) if _KERNEL.search(target) else Costs()
    return Costs(flops=flops)


def _kernel_flops(target: str, i: Instruction, comp: Computation) -> float | None:
    """Operations of a kernel of another library, by its shapes; None where it is not understood.

    cuBLAS products; cuDNN attention (2 products forward, 5 backward; causal: half of the scores); splash attention
    on TPU (2 products forward, 4 for keys and values, 3 for queries; causal: blocks on and below the diagonal).
    """
    if target.startswith("__cublas$"):
        config = json.loads(i.braced("backend_config"))["gemm_backend_config"]
        left = _operands(i, comp)[0]
        contracted = [left[int(d)] for d in config["dot_dimension_numbers"]["lhs_contracting_dimensions"]]
        return 2.0 * math.prod(_dims(i)) * math.prod(contracted)
    if target.startswith("__cudnn$fmha"):
        config = json.loads(i.braced("backend_config"))["cudnn_fmha_backend_config"]
        scores = math.prod(int(d) for d in config["intermediate_tensor_shape"]["dimensions"])
        products = 5 if "Backward" in target else 2
        seen = 0.5 if "CAUSAL" in config["mask_type"] else 1.0
        return 2.0 * products * scores * _operands(i, comp)[0][-1] * seen
    found = _SPLASH.search(i.name) or _SPLASH.search(i.attributes)
    if target == "tpu_custom_call" and found:
        # The kernel's maps of blocks [.., query blocks, key blocks]; queries, keys, values; the pair of segment ids
        # where there are any; the numbers of the query rows, only where the kernel works out its mask itself, which
        # is causal here: without them it visits every block. Dimensions of 1 may be left out.
        operands = [hlo_text.arrays(comp.instructions[name].shape)[0] for name in i.operands]
        first = next(n for n, (kind, _) in enumerate(operands) if kind in _FLOATS)
        blocks, queries, keys = (dims for _, dims in (operands[0], *operands[first : first + 2]))
        is_causal = sum(kind == "s32" for kind, _ in operands[first:]) % 2 == 1
        seen = (blocks[-1] + 1) / (2 * blocks[-1]) if is_causal else 1.0
        return 2.0 * _SPLASH_PRODUCTS[found.group(1)] * math.prod(queries) * keys[-2] * seen
    return None
