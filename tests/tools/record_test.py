"""A tool's record: how it is called, and what its host's settings make of it."""

import contextlib
import dataclasses

import pytest

from arft_jax.config import default_config
from arft_jax.syntax.spec import ToolSpec
from arft_jax.tools.bundled import BUNDLED, paper_syntax
from arft_jax.tools.record import CallPolicy, Tool, ToolHost

HOST = ToolHost(default_config().tools.to_dict() | dict(n_threads=3, deadline_s=50.0, n_tries=2))


def test_the_usual_way_to_call_a_tool_is_the_configs():
    policy = HOST.usual_policy
    assert (policy.n_threads, policy.deadline_s, policy.try_s, policy.n_tries) == (3, 50.0, 50.0, 2)
    for tool in BUNDLED.values():
        assert tool.call_policy(HOST) == policy


def test_a_record_may_have_a_policy_and_a_spec_of_its_own():
    spec = ToolSpec("a", "b", {}, "a")
    tool = Tool(
        spec,
        lambda host: contextlib.nullcontext(),
        policy=lambda host: CallPolicy(n_tries=1),
        specify=lambda host: dataclasses.replace(spec, description=f"top {host.settings['top_k']}"),
    )
    assert tool.call_policy(HOST).n_tries == 1 and tool.specified(HOST).spec.description == "top 4"
    assert tool.name == "a" and tool.lacks(HOST) == ""
    plain = Tool(spec, lambda host: contextlib.nullcontext())
    assert plain.specified(HOST) is plain


def test_names_and_tags_of_the_bundled_tools_differ_and_schemas_are_whole():
    assert list(BUNDLED) == ["diagnose", "python", "search", "image_search", "crop"]
    assert [tool.spec.tag for tool in BUNDLED.values()] == ["problem", "code", "search", "image_search", "crop"]
    for tool in BUNDLED.values():
        properties = tool.spec.parameters["properties"]
        assert tool.spec.description and all(part["description"] for part in properties.values())
        assert set(tool.spec.parameters["required"]) <= set(properties) and not tool.is_guest
    assert [spec.name for spec in paper_syntax().specs] == ["search", "diagnose", "python"]


@pytest.mark.parametrize("field", ["n_threads", "n_tries", "max_waiting", "deadline_s", "try_s", "open_s"])
def test_numbers_below_their_minimum_are_named(field):
    with pytest.raises(ValueError, match=f"{field} must be .*: got 0"):
        CallPolicy(**{field: 0})
