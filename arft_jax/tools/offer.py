"""Which tools a run has, which of them a task is offered, and the syntax in which they are called."""

import dataclasses
from collections.abc import Iterable, Mapping

from arft_jax.syntax.hermes import HermesSyntax
from arft_jax.syntax.spec import Syntax, ToolSpec
from arft_jax.syntax.tags import TagSyntax
from arft_jax.tools.record import Tool, ToolHost
from arft_jax.trajectory import Task

SYNTAXES = {"tags": TagSyntax, "hermes": HermesSyntax}


@dataclasses.dataclass(frozen=True, eq=False)
class Offer:
    """The tools of a run.

    Args:
      tools: by name, in the order in which they are announced.
      names: that every task is offered; empty: each task those that its kind is offered.
      syntax: of all of them.
    """

    tools: Mapping[str, Tool]
    names: tuple[str, ...]
    syntax: Syntax

    def of(self, task: Task) -> tuple[Tool, ...]:
        """The tools that a task is offered, in order: those that it asks for, else those of ``names``, else its kind's.

        Tools of one's own need not be among ``names``: every task of their kinds is offered them.
        """
        if asked := _asks(task):
            return tuple(tool for name, tool in self.tools.items() if name in asked)

        def is_offered(tool: Tool) -> bool:
            if self.names and not tool.is_guest:
                return tool.name in self.names
            return tool.name in self.names or tool.spec.kinds is None or task.kind in tool.spec.kinds

        return tuple(tool for tool in self.tools.values() if is_offered(tool))

    def only(self, tasks: Iterable[Task]) -> "Offer":
        """The same with the tools alone that some of these tasks are offered; the syntax knows all of them still."""
        needed = {tool.name for task in tasks for tool in self.of(task)}
        return dataclasses.replace(self, tools={name: tool for name, tool in self.tools.items() if name in needed})

    def specs(self, task: Task) -> tuple[ToolSpec, ...]:
        """What the policy is told of them."""
        return tuple(tool.spec for tool in self.of(task))


def _asks(task: Task) -> tuple[str, ...]:
    return tuple(task.tools)


def make_offer(
    bundled: Mapping[str, Tool],
    extra: Iterable[Tool],
    host: ToolHost,
    *,
    names: tuple[str, ...] = (),
    kinds: Iterable[str] = (),
    asked: Iterable[str] = (),
    syntax: str = "tags",
) -> Offer:
    """The tools that a run needs.

    Args:
      bundled: those of the package, by name.
      extra: of one's own.
      host: what they will be opened with.
      names: ``config.tools.offer``.
      kinds: of the run's tasks.
      asked: names that tasks ask for.
      syntax: ``config.tools.syntax``.

    Raises:
      ValueError: an unknown name or syntax, a tool that lacks what it needs, two tools of one name or tag.
    """
    if syntax not in SYNTAXES:
        raise ValueError(f"syntax must be {' or '.join(SYNTAXES)}: got {syntax!r} (config.tools.syntax)")
    extra, wanted = list(extra), {*names, *asked}
    for tool in extra:
        if tool.name in bundled:
            raise ValueError(f"a tool must have a name of its own: got {tool.name!r} (config.tools.extra)")
    known = {*bundled, *(tool.name for tool in extra)}
    if unknown := sorted(wanted - known):
        raise ValueError(f"tools must be among {', '.join(sorted(known))}: got {unknown[0]!r} (config.tools.offer)")
    chosen = []
    for name, tool in bundled.items():
        lacks = tool.lacks(host)
        if name in wanted and lacks:
            raise ValueError(f"{lacks}: got {name!r} among the tools that are offered (config.tools.offer)")
        by_kind = not names and (tool.spec.kinds is None or set(tool.spec.kinds) & set(kinds))
        if name in wanted or (by_kind and not lacks):
            chosen.append(tool.specified(host))
    for tool in extra:
        if lacks := tool.lacks(host):
            raise ValueError(f"{lacks}: got {tool.name!r} among the tools of your own (config.tools.extra)")
        chosen.append(tool.specified(host))
    made = SYNTAXES[syntax]([tool.spec for tool in chosen])
    return Offer({tool.name: tool for tool in chosen}, tuple(names), made)
