"""Which tools a run has and a task is offered, and what cannot be offered."""

import dataclasses

import pytest

from arft_jax.build.tools import plan_offer, tool_host
from arft_jax.config import default_config
from arft_jax.syntax.hermes import HermesSyntax
from arft_jax.tools.bundled import BUNDLED
from arft_jax.tools.guest import make_tool, tool_options
from arft_jax.tools.offer import make_offer
from arft_jax.tools.record import ToolHost
from arft_jax.trajectory import Task

CODING, SEARCH, OTHER = (Task("t", kind, "?", (), ()) for kind in ("coding", "search", "chess"))


def clock() -> str:
    """Tells the time."""


@tool_options(kinds=("coding",))
def ruler() -> str:
    """Measures."""


CLOCK, RULER = make_tool(clock, "x:clock"), make_tool(ruler, "x:ruler")


def host(search_indices="an index", pictures=lambda: None, **settings):
    return ToolHost(default_config().tools.to_dict() | {"crop_frame": "permille"} | settings, search_indices, pictures)


def names(tools):
    return [tool.name for tool in tools]


@pytest.mark.parametrize(
    ("kinds", "pictures", "want"),
    [
        (["coding"], False, ["diagnose", "python"]),
        (["search"], False, ["search"]),
        (["search"], True, ["search", "image_search"]),
        (["coding", "search"], True, ["diagnose", "python", "search", "image_search"]),
        (["chess"], True, []),
    ],
)
def test_a_run_opens_what_the_kinds_of_its_tasks_are_offered(kinds, pictures, want):
    offer = make_offer(BUNDLED, (), host(pictures=(lambda: None) if pictures else None), kinds=kinds)
    assert list(offer.tools) == want and names(offer.syntax.specs) == want


def test_each_task_is_offered_the_tools_of_its_kind():
    offer = make_offer(BUNDLED, (CLOCK, RULER), host(), kinds=["coding", "search"])
    assert names(offer.of(CODING)) == ["diagnose", "python", "clock", "ruler"]
    assert names(offer.of(SEARCH)) == ["search", "image_search", "clock"]
    assert names(offer.of(OTHER)) == ["clock"]
    assert offer.specs(SEARCH) == tuple(tool.spec for tool in offer.of(SEARCH))


def test_named_tools_go_to_every_task_and_those_of_ones_own_to_their_kinds():
    offer = make_offer(BUNDLED, (CLOCK, RULER), host(), names=("crop", "search"), kinds=["coding"])
    assert list(offer.tools) == ["search", "crop", "clock", "ruler"]  # announced in the order of the package
    assert names(offer.of(CODING)) == ["search", "crop", "clock", "ruler"]
    assert names(offer.of(SEARCH)) == names(offer.of(OTHER)) == ["search", "crop", "clock"]
    named = make_offer(BUNDLED, (RULER,), host(), names=("search", "ruler"))
    assert names(named.of(SEARCH)) == ["search", "ruler"]


def test_a_task_that_asks_for_tools_is_offered_those_alone():
    offer = make_offer(BUNDLED, (CLOCK,), host(), kinds=["coding"], asked=("crop", "search"))
    assert list(offer.tools) == ["diagnose", "python", "search", "crop", "clock"]
    assert names(offer.of(Task("t", "coding", "?", (), (), tools=("crop",)))) == ["crop"]
    assert names(offer.of(Task("t", "coding", "?", (), (), tools=("clock", "search")))) == ["search", "clock"]
    assert names(offer.of(CODING)) == ["diagnose", "python", "clock"]


def test_the_crop_tool_says_in_which_units_its_numbers_are():
    units = {"permille": "0 to 1000", "original": "pixels of the picture.", "resized": "shown to you"}
    for frame, words in units.items():
        offer = make_offer(BUNDLED, (), host(crop_frame=frame), names=("crop",))
        assert words in offer.tools["crop"].spec.prompt_line and words in offer.tools["crop"].spec.description


@pytest.mark.parametrize(
    ("extra", "options", "message"),
    [
        ((), dict(syntax="xml"), r"syntax must be tags or hermes: got 'xml' \(config.tools.syntax\)"),
        ((), dict(names=("paint",)), r"among crop, .*: got 'paint' \(config.tools.offer\)"),
        ((), dict(asked=("paint",)), r"got 'paint'"),
        ((CLOCK, CLOCK), {}, r"must differ in name and tag: .*clock <clock>, clock <clock> \(config.tools.extra\)"),
        ((CLOCK, CLOCK), dict(syntax="hermes"), r"must differ in name: .*clock, clock \(config.tools.extra\)"),
        (
            (),
            dict(names=("image_search",), pictures=None),
            r"image_search needs an index of pictures .*: got 'image_search' .* \(config.tools.offer\)",
        ),
        (
            (),
            dict(names=("search",), search_indices=None),
            r"search needs a task set with texts .*\(config.tools.offer\)",
        ),
    ],
)
def test_what_cannot_be_offered_is_one_sentence_with_the_key(extra, options, message):
    options = dict(options)
    given = {key: options.pop(key) for key in ("pictures", "search_indices") if key in options}
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}"):
        make_offer(BUNDLED, extra, host(**given), kinds=["coding"], **options)


def test_a_name_of_the_package_is_not_for_ones_own():
    @tool_options(name="python")
    def run() -> str:
        """Runs."""

    with pytest.raises(ValueError, match=r"must have a name of its own: got 'python' \(config.tools.extra\)"):
        make_offer(BUNDLED, (make_tool(run, "x:run"),), host())


def test_the_config_names_tools_by_import_path(tmp_path, monkeypatch):
    (tmp_path / "my_offered_tools.py").write_text('def clock() -> str:\n    """Tells the time."""\n')
    monkeypatch.syspath_prepend(tmp_path)
    config = default_config()
    config.tools.extra, config.tools.syntax = ("my_offered_tools:clock",), "hermes"
    offer = plan_offer(config, tool_host(config, None), ["coding"])
    assert list(offer.tools) == ["diagnose", "python", "clock"] and isinstance(offer.syntax, HermesSyntax)
    for path, sentence in (
        ("my_offered_tools:clok", "must have clok: "),
        ("my_offerd_tools:clock", "my_offerd_tools must be importable: got ModuleNotFoundError"),
        ("my_offered_tools.clock", "must be of the form my_package.my_module:name: got 'my_offered_tools.clock'"),
    ):
        config.tools.extra = (path,)
        with pytest.raises(ValueError, match=rf"^[^\n]*{sentence}[^\n]*config.tools.extra"):
            plan_offer(config, tool_host(config, None), ["coding"])


def test_a_tool_of_ones_own_that_lacks_something_is_refused_while_planning():
    blind = dataclasses.replace(CLOCK, lacks=lambda host: "clock needs a wall")
    with pytest.raises(ValueError, match=r"^clock needs a wall: got 'clock' .* \(config.tools.extra\)"):
        make_offer(BUNDLED, (blind,), host())


def test_boxes_are_in_the_units_of_the_model_unless_the_config_names_others():
    config = default_config()
    assert tool_host(config, None, boxes="resized").settings["crop_frame"] == "resized"
    config.tools.crop_frame = "original"
    assert tool_host(config, None, boxes="resized").settings["crop_frame"] == "original"
