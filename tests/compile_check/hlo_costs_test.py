"""Costs of compiled programs against hand values, on the CPU and on lines as TPU and GPU compilers write them."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.compile_check import hlo_costs


def text_of(f, *args):
    return jax.jit(f).lower(*args).compile().as_text()


def scanned(x, w, n):
    return jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, None, length=n)[0]


X, W = np.ones((16, 32), np.float32), np.ones((32, 32), np.float32)
ONE = 2 * 16 * 32 * 32  # one X @ W


def test_a_scanned_product_counts_as_often_as_it_runs():
    assert hlo_costs.count(text_of(lambda x, w: scanned(x, w, 7), X, W)) == hlo_costs.Costs(flops=7 * ONE)


def test_scans_within_scans_multiply():
    def f(x, w):
        return jax.lax.scan(lambda c, _: (scanned(c, w, 3), None), x @ w, None, length=5)[0]

    assert hlo_costs.count(text_of(f, X, W)).flops == (3 * 5 + 1) * ONE


def test_the_gradient_of_a_scan_costs_two_products_more_a_step():
    # y_t = tanh(y_{t-1} w): forward 1, backward dy wT and yT dy
    costs = hlo_costs.count(text_of(jax.grad(lambda w, x: scanned(x, w, 6).sum()), W, X))
    assert costs.flops == pytest.approx(6 * 3 * ONE) and costs.open_loops == 0


def repeated(x, w, n):
    return jax.lax.while_loop(
        lambda c: (c[0] < n) & jnp.any(c[1] > 0), lambda c: (c[0] + 1, c[1] @ w), (jnp.int32(0), x)
    )[1]


def test_a_loop_that_may_end_early_counts_its_most_steps():
    costs = hlo_costs.count(text_of(lambda x, w: repeated(x, w, 5), X, W), open_trips=100)
    assert costs == hlo_costs.Costs(flops=5 * ONE)


def test_a_loop_of_unknown_length_counts_as_often_as_told():
    costs = hlo_costs.count(text_of(repeated, X, W, np.int32(3)), open_trips=11)
    assert costs == hlo_costs.Costs(flops=11 * ONE, open_loops=1)


def test_branches_count_by_their_shares_and_a_skip_as_never_taken():
    def f(x, w, flag):
        return jax.lax.cond(flag, lambda: x @ w @ w @ w, lambda: jnp.sin(x @ w))

    text = text_of(f, X, W, np.bool_(True))
    assert hlo_costs.count(text).flops == 3 * ONE
    assert hlo_costs.count(text, shares=(0.75, 0.25)).flops == 1.5 * ONE  # index 0 is False

    def skipping(x, w, flag):
        return jax.lax.cond(flag, lambda: x @ w, lambda: x)

    assert hlo_costs.count(text_of(skipping, X, W, np.bool_(True)), shares=(0.75, 0.25)).flops == ONE


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 2), (1, 1)), ((3, 2), (0, 4))])
@pytest.mark.parametrize("dilations", [((1, 1), (1, 1)), ((2, 1), (1, 2))])
def test_a_convolution_counts_only_where_kernel_and_input_meet(strides, padding, dilations):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 9, 8, 6)).astype(np.float32), rng.normal(size=(4, 3, 3, 10)).astype(np.float32)

    def f(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, strides, padding, lhs_dilation=dilations[0], rhs_dilation=dilations[1],
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2,
        )  # fmt: skip

    # with ones alone, each output is the number of products that it sums
    products = float(f(jnp.ones_like(x), jnp.ones_like(kernel)).sum())
    assert hlo_costs.count(text_of(f, x, kernel)).flops == pytest.approx(2 * products)


EXCHANGES = """
import json
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from arft_jax.compile_check import hlo_costs

mesh = jax.make_mesh((2, 4), ("a", "b"))
whole = P(("a", "b"))

def sent(axis, n):
    def steps(x):
        def step(c, _):
            c = jax.lax.psum(c, axis) * 0.1
            c = jax.lax.all_gather(c, axis, tiled=True)
            c = jax.lax.psum_scatter(jnp.sin(c), axis, tiled=True)
            c = jax.lax.all_to_all(c.reshape(n, -1), axis, 0, 0, tiled=True).reshape(-1)
            return jax.lax.ppermute(c, axis, [(i, (i + 1) % n) for i in range(n)]), None
        return jax.lax.scan(step, x, None, length=3)[0]
    f = jax.jit(jax.shard_map(steps, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False))
    x = jax.ShapeDtypeStruct((8 * 64,), jnp.float32, sharding=NamedSharding(mesh, whole))
    costs = hlo_costs.count(f.lower(x).compile().as_text())
    return [costs.sent_bytes, costs.exchanges]

print(json.dumps([sent("a", 2), sent("b", 4), sent(("a", "b"), 8)]))
"""


def test_scanned_exchanges_send_what_their_formulas_say(repo_root):
    env = dict(os.environ, XLA_FLAGS="--xla_force_host_platform_device_count=8", JAX_PLATFORMS="cpu")
    done = subprocess.run([sys.executable, "-c", EXCHANGES], cwd=repo_root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    x, steps = 64 * 4, 3  # bytes that a device gives in
    for n, (sent, times) in zip((2, 4, 8), json.loads(done.stdout), strict=True):
        assert sent == {
            "all-reduce": steps * 2 * x * (n - 1) / n,
            "all-gather": steps * x * (n - 1),
            "reduce-scatter": steps * n * x * (n - 1) / n,  # it is given what was gathered
            "all-to-all": steps * x * (n - 1) / n,
            "collective-permute": steps * x,
        }
        assert set(times.values()) == {steps}


def module(lines, *others, devices=16):
    """A module of given lines in its entry; ``others`` are computations."""
    entry = "ENTRY %main (p: f32[]) -> f32[] {\n" + "\n".join(f"  {line}" for line in lines) + "\n}"
    return "\n\n".join([f"HloModule jit_f, is_scheduled=true, num_partitions={devices}", *others, entry])


def test_every_form_of_groups_is_read():
    forms = {
        "replica_groups={{0,1,2,3},{4,5,6,7}}": 4,
        "replica_groups={}": 16,
        "replica_groups=[8,2]<=[2,8]T(1,0)": 2,
        "replica_groups=mesh['x'=2,'y'=8] {'y'}": 8,
        "replica_groups=mesh['x'=2,'y'=8] {'x', 'y'}": 16,
        "replica_groups=mesh['x'=2,'y'=8] {'y':(2)4}": 4,
    }
    for form, n in forms.items():
        lines = ["%p = bf16[3,5]{1,0:T(8,128)(2,1)} parameter(0)"]
        lines += [f"ROOT %g = bf16[{3 * n},5]{{1,0}} all-gather(%p), channel_id=1, {form}, dimensions={{0}}"]
        assert hlo_costs.count(module(lines)).sent_bytes == {"all-gather": 2 * 15 * (n - 1)}, form


def test_a_permutation_onto_itself_sends_nothing():
    pairs = {"{{0,1},{1,0}}": 60.0, "{{0,0},{1,1}}": 0.0}
    for form, sent in pairs.items():
        lines = [
            "%p = f32[15]{0} parameter(0)",
            f"%s = (f32[15]{{0}}, f32[15]{{0}}) collective-permute-start(%p), source_target_pairs={form}",
            "ROOT %d = f32[15]{0} collective-permute-done(%s)",
        ]
        assert hlo_costs.count(module(lines)).sent_bytes == {"collective-permute": sent}


def test_an_asynchronous_pair_counts_once():
    inner = """%started (q: f32[8,4]) -> f32[8,4] {
  %q = f32[8,4]{1,0} parameter(0)
  ROOT %a = f32[8,4]{1,0} all-to-all(%q), channel_id=2, replica_groups=[2,8]<=[16], dimensions={0}
}"""
    lines = [
        "%p = f32[8,4]{1,0} parameter(0)",
        "%h = bf16[4]{0} parameter(1)",
        "%g = ((f32[8,4]{1,0}, bf16[4]{0}), (f32[64,4]{1,0}, /*index=1*/bf16[32]{0})) all-gather-start(%p, %h), "
        "replica_groups=[2,8]<=[16], dimensions={0}",
        "%gd = (f32[64,4]{1,0}, bf16[32]{0}) all-gather-done(%g)",
        "%s = ((f32[8,4]{1,0}), f32[8,4]{1,0}) async-start(%p), calls=%started",
        "%u = ((f32[8,4]{1,0}), f32[8,4]{1,0}) async-update(%s), calls=%started",
        "ROOT %d = f32[8,4]{1,0} async-done(%u), calls=%started",
    ]
    costs = hlo_costs.count(module(lines, inner))
    assert costs.sent_bytes == {"all-gather": (128 + 8) * 7.0, "all-to-all": 128 * 7 / 8}
    assert costs.exchanges == {"all-gather": 1, "all-to-all": 1}


def test_a_gather_that_tpu_spreads_over_fusions_counts_at_its_start_alone():
    gather = (
        "%{n} = bf16[32,8]{{1,0}} all-gather(%{p}), channel_id=3, replica_groups=[1,16]<=[16], dimensions={{0}}, "
        'frontend_attributes={{chain_id="4"}}, backend_config={{"async_collective_fusion_config":{{"flag_start":"2"}}}}'
    )
    start = f"""%fused.start (p0: bf16[2,8]) -> (bf16[2,8], bf16[32,8]) {{
  %p0 = bf16[2,8]{{1,0}} parameter(0)
  {gather.format(n="g0", p="p0")}
  ROOT %c0 = (bf16[2,8]{{1,0}}, bf16[32,8]{{1,0}}) custom-call(%g0), custom_call_target="AsyncCollectiveStart"
}}"""
    middle = f"""%async_collective_fusion (p1: bf16[2,8]) -> bf16[32,8] {{
  %p1 = bf16[2,8]{{1,0}} parameter(0)
  ROOT {gather.format(n="g1", p="p1")}
}}"""
    done = f"""%fused.done (p2: bf16[2,8]) -> bf16[32,8] {{
  %p2 = bf16[2,8]{{1,0}} parameter(0)
  {gather.format(n="g2", p="p2")}
  ROOT %c2 = bf16[32,8]{{1,0}} custom-call(%p2, %g2), custom_call_target="AsyncCollectiveDone"
}}"""
    lines = [
        "%p = bf16[2,8]{1,0} parameter(0)",
        "%s = (bf16[2,8]{1,0}, bf16[32,8]{1,0}) fusion(%p), kind=kCustom, calls=%fused.start",
        "%m = bf16[32,8]{1,0} fusion(%p), kind=kOutput, calls=%async_collective_fusion",
        "ROOT %d = bf16[32,8]{1,0} fusion(%p), kind=kCustom, calls=%fused.done",
    ]
    assert hlo_costs.count(module(lines, start, middle, done)).sent_bytes == {"all-gather": 32 * 15.0}


def test_a_reduction_that_keeps_its_part_alone_is_a_scatter():
    inner = """%all-reduce-scatter.1 (q: f32[64]) -> f32[4] {
  %q = f32[64]{0} parameter(0)
  %a = f32[64]{0} all-reduce(%q), channel_id=2, replica_groups=[1,16]<=[16], to_apply=%add
  ROOT %s = f32[4]{0} dynamic-slice(%a, %q), dynamic_slice_sizes={4}
}"""
    lines = [
        "%p = f32[64]{0} parameter(0)",
        "ROOT %r = f32[4]{0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1",
    ]
    assert hlo_costs.count(module(lines, inner)).sent_bytes == {"reduce-scatter": 256 * 15 / 16}


def test_a_product_that_tpu_writes_as_a_convolution_counts_without_its_padding():
    # [40, 80] x [80, 3 * 16]: the "window" of 3 x 16 slides over an input of 1 x 1, padded
    lines = [
        "%x = bf16[40,80,1,1]{1,0,3,2} parameter(0)",
        "%w = bf16[3,16,80,1]{3,2,1,0} parameter(1)",
        "ROOT %c = f32[40,3,16,1]{1,0,3,2} convolution(%x, %w), window={size=3x16 pad=2_2x15_15 rhs_reversal=1x1}, "
        "dim_labels=bf01_01io->b01f",
    ]
    assert hlo_costs.count(module(lines)).flops == 2 * 40 * 80 * 3 * 16


SPLASH = """%{name} = bf16[2,2,8,1024,128]{{4,3,2,1,0:T(8,128)}} custom-call(%m, %n, %q, %k, %k{rest}), \
custom_call_target="tpu_custom_call", frontend_attributes={{kernel_metadata={{
"xprof_metadata":"{{\\"block_q\\": 256}}"
}}}}, metadata={{op_name="jit(f)/splash"}}, backend_config={{"custom_call_config":{{"body":"TUzvUg="}}}}"""


@pytest.mark.parametrize(("kind", "products"), [("fwd", 2), ("dkv", 4), ("dq", 3)])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("segmented", [True, False])
def test_splash_kernels_count_the_blocks_that_they_visit(kind, products, causal, segmented):
    rest = ", %ids, %ids" * segmented + ", %rows" * causal
    lines = [
        "%m = s8[1,4,4]{2,1,0} parameter(0)",
        "%n = s8[1,4,4]{2,1,0} parameter(1)",
        "%q = bf16[2,2,8,1024,128]{4,3,2,1,0} parameter(2)",
        "%k = bf16[2,2,1024,128]{3,2,1,0} parameter(3)",
        "%rows = s32[1024,128]{1,0} parameter(4)",
        "%ids = s32[8,1024]{1,0} parameter(5)",
        "ROOT " + SPLASH.format(name=f"splash_mqa_{kind}_segmented.1", rest=rest),
    ]
    whole = 2 * products * (2 * 2 * 8) * 1024 * 1024 * 128
    assert hlo_costs.count(module(lines)) == hlo_costs.Costs(flops=whole * (10 / 16 if causal else 1))


def test_a_splash_kernel_of_one_sequence_and_one_head_counts_without_their_dimensions():
    lines = [
        "%m = s8[1,4,4]{2,1,0} parameter(0)",
        "%q = bf16[1,1024,128]{2,1,0} parameter(1)",
        "%k = bf16[1024,128]{1,0} parameter(2)",
        "%ids = s32[8,1024]{1,0} parameter(3)",
        "ROOT " + SPLASH.format(name="splash_mqa_fwd_segmented.1", rest=", %ids, %ids").replace("%m, %n", "%m"),
    ]
    assert hlo_costs.count(module(lines)).flops == 2 * 2 * 1024 * 1024 * 128


def test_kernels_of_cublas_and_cudnn_count_by_their_shapes():
    gemm = {"gemm_backend_config": {"beta": 0, "dot_dimension_numbers": {"lhs_contracting_dimensions": ["2"]}}}
    attention = {
        "cudnn_fmha_backend_config": {
            "intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["2", "4", "256", "512"]},
            "mask_type": "CAUSAL",
        }
    }
    lines = [
        "%a = bf16[4,256,512]{2,1,0} parameter(0)",
        "%q = bf16[2,256,4,64]{3,1,2,0} parameter(1)",
        '%g = (bf16[4,256,384]{2,1,0}, s8[4194304]{0}) custom-call(%a, %a), custom_call_target="__cublas$lt$matmul", '
        f"backend_config={json.dumps(gemm)}",
        '%f = (bf16[2,4,256,64]{3,1,2,0}, u8[0]{0}) custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaSoftmax", '
        f"backend_config={json.dumps(attention)}",
    ]
    product, scores = 2 * 4 * 256 * 384 * 512, 2 * 4 * 256 * 512
    assert hlo_costs.count(module(lines)).flops == product + 2 * 2 * scores * 64 / 2


def test_a_kernel_that_is_not_understood_is_told():
    lines = [
        "%p = f32[8]{0} parameter(0)",
        '%a = f32[8]{0} custom-call(%p), custom_call_target="tpu_custom_call", backend_config={}',
        'ROOT %b = f32[8]{0} custom-call(%p), custom_call_target="AllocateBuffer"',
    ]
    assert hlo_costs.count(module(lines)).unseen == {"tpu_custom_call"}
