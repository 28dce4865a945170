"""Lines of HLO text as compilers write them, and how long loops run where the compiler does not say."""

import pytest

from arft_jax.compile_check import hlo_text

LOOP = """HloModule jit_f, is_scheduled=true, replica_count=1, num_partitions=4

%fused_less (a: s32[], b: pred[]) -> pred[] {{
  %a = s32[] parameter(0)
  %b = pred[] parameter(1)
  %limit = s32[] constant({limit})
  %less = pred[] compare({compared}), direction={direction}
  ROOT %and = pred[] and(%b, %less)
}}

%cond (t: (s32[], f32[2], s32[])) -> pred[] {{
  %t = (s32[]{{:T(128)}}, f32[2]{{0:T(128)}}, s32[]) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %any = pred[] custom-call(), custom_call_target="any"
  ROOT %f = pred[] fusion(%i, %any), kind=kLoop, calls=%fused_less
}}

%fused_next (c: s32[]) -> s32[] {{
  %c = s32[] parameter(0)
  %by = s32[] constant({step})
  ROOT %sum = s32[] add(%c, %by)
}}

%body (u: (s32[], f32[2], s32[])) -> (s32[], f32[2], s32[]) {{
  %u = (s32[]{{:T(128)}}, f32[2]{{0:T(128)}}, s32[]) parameter(0)
  %j = s32[] get-tuple-element(%u), index=0
  %next = s32[] fusion(%j), kind=kLoop, calls=%fused_next
  %x = f32[2]{{0}} get-tuple-element(%u), index=1
  %k = s32[] get-tuple-element(%u), index=2
  ROOT %r = (s32[], f32[2], s32[]) tuple(%next, %x, %k)
}}

ENTRY %main (p: f32[2]) -> f32[2] {{
  %p = f32[2]{{0}} parameter(0)
  %zero = s32[] constant({start})
  %start = s32[]{{:T(128)}} copy(%zero)
  %tuple = (s32[], f32[2], s32[]) tuple(%start, %p, %zero)
  %w = (s32[], f32[2], s32[]) while(%tuple), condition=%cond, body=%body{attributes}
  ROOT %out = f32[2]{{0}} get-tuple-element(%w), index=1
}}
"""
UP = dict(limit=10, compared="%a, %limit", direction="LT", step=1, start=0, attributes="")


@pytest.mark.parametrize(
    ("change", "trips"),
    [
        ({}, 10),
        (dict(start=4), 6),
        (dict(step=3), 4),
        (dict(direction="LE"), 11),
        (dict(compared="%limit, %a", direction="GT"), 10),
        (dict(limit=0, start=10, step=-1, direction="GT"), 10),
        (dict(start=12), 0),
        (dict(attributes=', backend_config={"known_trip_count":{"n":"28"}}'), 28),
        (dict(step=0), None),
    ],
)
def test_a_loop_runs_as_often_as_its_counter_says(change, trips):
    module = hlo_text.parse(LOOP.format(**UP | change))
    entry = module.computations[module.entry]
    assert hlo_text.trip_count(entry.instructions["w"], entry, module) == trips


def test_an_instruction_that_runs_over_several_lines_is_one():
    text = """HloModule jit_f

ENTRY %main (p: f32[2]) -> f32[2] {
  %p = f32[2]{0:T(128)} parameter(0)
  %k = (f32[2]{0:T(8,128)(2,1)}, /*index=1*/u32[]{:S(2)}) custom-call(%p), frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"a\\": \\")\\"}"
}}, custom_call_target="x", backend_config={"a":"}"}
  ROOT %out = f32[2]{0} get-tuple-element(%k), index=0
}
"""
    module = hlo_text.parse(text)
    entry = module.computations["main"]
    assert list(entry.instructions) == ["p", "k", "out"] and entry.root == "out" and module.n_devices == 1
    call = entry.instructions["k"]
    assert (call.op, call.operands) == ("custom-call", ["p"])
    assert call.value("custom_call_target", "") == '"x"'
    assert call.braced("backend_config") == '{"a":"}"}'
    assert hlo_text.arrays(call.shape) == [("f32", (2,)), ("u32", ())]


@pytest.mark.parametrize(
    ("shape", "size"), [("bf16[8,4]{1,0:T(8,128)(2,1)}", 64), ("(pred[3], s4[6], f8e4m3fn[5])", 11), ("f32[]", 4)]
)
def test_bytes_of_a_shape(shape, size):
    assert hlo_text.n_bytes(shape) == size


def test_text_that_is_no_module_is_refused():
    with pytest.raises(ValueError, match="must be an HLO module with an entry computation: got 'hello'"):
        hlo_text.parse("hello")
