"""Tools of one's own: a typed Python function with a docstring, or a class that keeps state for one trajectory.

``config.tools.extra`` names them by import path. The schema comes from ``transformers.utils.get_json_schema``, so the
docstring is in Google style and tells every argument. An argument named ``context`` is not the policy's: it is given a
:class:`GuestContext`. What is returned is shown to the policy: text, a number, an image (PIL, or uint8[H, W, 3]), or a
tuple of these. An exception is told to the policy (status ``error``); a tool that raises
:class:`arft_jax.tools.call.Fault` says that its service failed, and is tried again.
"""

import contextlib
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import PIL.Image

from arft_jax.syntax.spec import ToolSpec
from arft_jax.tools.context import ToolContext
from arft_jax.tools.guest_calls import GuestContext, GuestRunner, run_aside
from arft_jax.tools.record import CallPolicy, Job, Tool, ToolHost
from arft_jax.trajectory import Image

_OPTIONS = "arft_tool_options"
_CLOSE_S = 2.0  # for which the loop waits when a trajectory ends
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SHOWN = (str, int, float, bool, PIL.Image.Image, np.ndarray, np.generic, Image, tuple, list)


@dataclasses.dataclass(frozen=True)
class GuestOptions:
    """What a tool's author may set beside the function itself; see :func:`tool_options`."""

    name: str = ""
    tag: str = ""
    line: str = ""
    kinds: tuple[str, ...] | None = None
    timeout_s: float = 30.0
    timeout: str = "limit"
    n_threads: int = 4


def tool_options(**options: Any) -> Callable[[Any], Any]:
    """A decorator that sets how a function or class serves as a tool.

    Args:
      **options: ``name`` (default: the function's), ``tag`` of its element (default: the name), ``line`` of the system
        prompt (default: made from the docstring), ``kinds`` of tasks that are offered it (default: all), ``timeout_s``
        of a call, ``timeout``: ``limit`` tells the policy that the call took too long, ``infra`` masks the trajectory,
        ``n_threads``: calls served at the same time.

    Raises:
      ValueError: an option that there is not, or a value that it cannot have.
    """
    known = {field.name for field in dataclasses.fields(GuestOptions)}
    if unknown := set(options) - known:
        raise ValueError(f"tool_options takes {', '.join(sorted(known))}: got {', '.join(sorted(unknown))}")
    made = GuestOptions(**options)
    if made.timeout not in ("limit", "infra"):
        raise ValueError(f"timeout must be limit or infra: got {made.timeout!r}")
    if not made.timeout_s > 0 or made.n_threads < 1:
        raise ValueError(
            f"timeout_s must be above 0 and n_threads at least 1: got {made.timeout_s} and {made.n_threads}"
        )

    def mark(tool: Any) -> Any:
        setattr(tool, _OPTIONS, made)
        return tool

    return mark


def make_tool(guest: Any, path: str) -> Tool:
    """The record of a function, of a class, or of a record that its author wrote.

    Args:
      guest: what the import path gave.
      path: the import path, for messages.

    Raises:
      ValueError: no docstring, an argument without type or description, a return type that can be shown to no policy, a
        name that is no plain word.
    """
    if isinstance(guest, Tool):
        return dataclasses.replace(guest, is_guest=True)
    is_class = inspect.isclass(guest)
    if not callable(guest) or (is_class and "__call__" not in vars(guest)):
        raise ValueError(
            f"a tool must be a function, a class with __call__, or a Tool: got {type(guest).__name__} at {path} "
            "(config.tools.extra)"
        )
    options = getattr(guest, _OPTIONS, GuestOptions())
    name = options.name or _snake_case(getattr(guest, "__name__", ""))
    if not _NAME.fullmatch(name):
        raise ValueError(f"a tool's name must be a plain lower-case word: got {name!r} at {path} (config.tools.extra)")
    function = guest.__call__ if is_class else guest
    schema = _schema(function, guest, name, path)
    _check_return(function, path)
    spec = ToolSpec(
        name=name,
        description=schema["description"],
        parameters=schema["parameters"],
        tag=options.tag or name,
        line=options.line,
        kinds=options.kinds,
    )
    takes_context = "context" in inspect.signature(function).parameters

    @contextlib.contextmanager
    def open_guest(host: ToolHost) -> Iterator[_GuestService]:
        yield _GuestService(guest, spec, takes_context, options, host.settings["max_output_bytes"])

    def policy(host: ToolHost) -> CallPolicy:
        usual = host.usual_policy
        return dataclasses.replace(usual, n_threads=options.n_threads, try_s=min(usual.try_s, options.timeout_s))

    return Tool(spec, open_guest, policy=policy, is_guest=True)


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _schema(function: Callable, guest: Any, name: str, path: str) -> dict[str, Any]:
    """Name, description and parameters, as transformers reads them, without ``context``."""
    from transformers.utils import get_json_schema  # takes seconds

    doc = inspect.getdoc(function) if function.__doc__ else inspect.getdoc(guest)
    if not doc:
        raise ValueError(f"a tool must have a docstring, the policy reads it: got none at {path} (config.tools.extra)")
    signature = inspect.signature(function)
    told = [p for p in signature.parameters.values() if p.name not in ("self", "context")]
    variable = [p.name for p in told if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    untyped = [p.name for p in told if p.annotation is p.empty]
    if variable:
        raise ValueError(f"a tool must name its arguments: got *{variable[0]} at {path} (config.tools.extra)")
    if untyped:
        raise ValueError(
            f"a tool must have a type for every argument: {untyped[0]!r} has none at {path} (config.tools.extra)"
        )
    bare = types.FunctionType((lambda: None).__code__, getattr(function, "__globals__", {}), name)
    bare.__doc__ = doc
    bare.__signature__ = signature.replace(parameters=told, return_annotation=signature.empty)
    hints = {key: value for key, value in function.__annotations__.items() if key not in ("return", "context")}
    bare.__annotations__ = hints
    try:
        schema = get_json_schema(bare)["function"]
    except Exception as error:  # of several kinds, none of them public
        raise ValueError(
            f"a tool's docstring and types must tell its schema: {error} at {path} (config.tools.extra)"
        ) from error
    schema["parameters"].setdefault("properties", {})
    return schema


def _check_return(function: Callable, path: str) -> None:
    """Refuses a return type that is told and that no policy could be shown."""
    try:
        told = typing.get_type_hints(function).get("return", typing.Any)
    except NameError:  # a type that is imported for type checkers alone
        return
    kind = typing.get_origin(told) or told
    if kind is typing.Any or kind is object or not isinstance(kind, type) or issubclass(kind, _SHOWN):
        return
    if kind is types.UnionType:
        return
    raise ValueError(
        f"a tool must return text, an image, or both: got the return type {getattr(told, '__name__', told)} at {path} "
        "(config.tools.extra)"
    )


class _GuestService:
    """Serves the calls of one guest."""

    def __init__(self, guest: Any, spec: ToolSpec, takes_context: bool, options: GuestOptions, max_chars: int):
        self._guest, self._name, self._takes_context = guest, spec.name, takes_context
        is_infra = options.timeout == "infra"
        self._runner = GuestRunner(spec.name, options.timeout_s, is_infra, options.n_threads, max_chars)

    def begin(self, arguments: Mapping[str, Any], context: ToolContext) -> Job:
        """See :class:`arft_jax.tools.record.Service`."""
        view, values = GuestContext(context.task, context.images), dict(arguments)
        if self._takes_context:
            values["context"] = view
        function = self._guest
        if inspect.isclass(self._guest):
            function = context.keep(self._name, lambda: _Stateful(self._guest, self._name)).bound(view)
        return Job(self._runner.work(function, values))


class _Stateful:
    """One instance of a guest's class, made and reset at the first call of a trajectory."""

    def __init__(self, guest: type, name: str):
        self._guest, self._name, self._instance = guest, name, None

    def bound(self, view: GuestContext) -> Callable[..., Any]:
        def call(**values: Any) -> Any:
            if self._instance is None:
                instance = self._guest()
                if hasattr(instance, "reset"):
                    takes = inspect.signature(instance.reset).parameters
                    instance.reset(view) if takes else instance.reset()
                self._instance = instance
            return self._instance(**values)

        return call

    def close(self) -> None:
        """Closes the instance; one that does not come back in time is left behind."""
        instance, self._instance = self._instance, None
        if instance is not None and hasattr(instance, "close"):
            run_aside(instance.close, self._name, _CLOSE_S)
