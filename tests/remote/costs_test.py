"""Tokens and dollars: usage records as servers write them, prices, and when a budget is spent."""

import pytest

from arft_jax.remote.costs import Meter, Usage, told, usage_of

O3 = {  # OpenAI's API reference, the chat completion object of a reasoning model
    "prompt_tokens": 1117, "completion_tokens": 246, "total_tokens": 1363,
    "prompt_tokens_details": {"cached_tokens": 1000, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 192, "audio_tokens": 0, "accepted_prediction_tokens": 0},
}  # fmt: skip


@pytest.mark.parametrize(
    "record, usage",
    [
        (O3, Usage(1117, 1000, 246, 192)),
        ({"prompt_tokens": 5, "total_tokens": 7, "completion_tokens": 2}, Usage(5, 0, 2, 0)),  # LMDeploy
        ({"prompt_tokens": 5, "completion_tokens": None, "prompt_tokens_details": None}, Usage(5)),  # vLLM
        ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 9}}, Usage(5, 5)),  # never more than there are
        (None, None),
        ({}, None),
        ([1], None),
        ({"prompt_tokens": -1}, None),
        ({"prompt_tokens": "many"}, None),
        ({"prompt_tokens": True}, None),
    ],
)
def test_usage_is_read_from_what_servers_send_and_nothing_else(record, usage):
    assert usage_of(record) == usage


def test_cached_tokens_have_a_price_of_their_own_where_one_is_given():
    usage = Usage(prompt_tokens=3000, cached_tokens=1000, completion_tokens=500)
    # 2000 * 2.5 + 1000 * 1.25 + 500 * 10 = 11250 millionths
    assert Meter({"m": (2.5, 10.0, 1.25)}).dollars_of("m", usage) == pytest.approx(0.01125)
    # 3000 * 2.5 + 500 * 10 = 12500
    assert Meter({"m": (2.5, 10.0)}).dollars_of("m", usage) == pytest.approx(0.0125)
    assert Meter({}).dollars_of("m", usage) is None


def test_sessions_add_up_and_a_budget_counts_the_earlier_ones():
    meter = Meter({"m": (1.0, 1.0)}, budget_dollars=0.003)
    meter.add("m", True, True, Usage(1000, 0, 500), earlier=True)
    assert not meter.is_spent
    meter.add("m", True, True, Usage(1000, 0, 499))
    assert not meter.is_spent  # 0.002999
    meter.add("m", False, True, None)
    meter.add("m", False, False, None)
    meter.add("m", True, True, Usage(0, 0, 1))
    assert meter.is_spent
    assert meter.totals() == {
        "m": {
            "requests": 5, "replies": 3, "unknown": 1, "prompt_tokens": 2000, "cached_tokens": 0,
            "completion_tokens": 1000, "reasoning_tokens": 0, "dollars": pytest.approx(0.003),
        }
    }  # fmt: skip
    assert meter.line() == "$0.00" and "m: 5 requests" in told(meter.totals())
    assert "the cost of 1 requests is not known" in told(meter.totals())


def test_processes_share_what_is_left_of_a_budget():
    meter = Meter({}, budget_tokens=1000, n_processes=2)
    meter.add("m", True, True, Usage(400), earlier=True)
    meter.add("m", True, True, Usage(299))
    assert not meter.is_spent  # 400 + 2 * 299
    meter.add("m", True, True, Usage(1))
    assert meter.is_spent


def test_an_unknown_price_is_said_and_never_counted_as_nothing():
    meter = Meter({"other": (1.0, 1.0)})
    meter.add("m", True, True, Usage(10, 0, 5))
    assert meter.totals()["m"]["dollars"] is None and meter.line() == "15 tokens"
    assert "at an unknown price (config.openai.prices)" in told(meter.totals())
