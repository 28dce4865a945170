"""``--list_keys``: every configuration key with its value, its default and its comment in ``arft_jax/config.py``."""

import ast
import io
import pathlib
import tokenize

from arft_jax import config as config_module
from arft_jax import objective_keys

_NO_COMMENT = ("fmt:", "noqa", "type:")  # directives to tools, not words to people


def read_comments(source: str) -> dict[str, str]:
    """{dotted name: comment} of every key and group of keys that ``default_config`` of a module's source makes.

    The comment of a key stands behind it on its line, or behind its value's last line, or alone on the lines above;
    keys that share a line share its comment. A group that a function makes has the first line of its docstring.

    >>> read_comments('def default_config():\\n    return dict(\\n        a=1,  # first\\n        b=2,\\n    )')
    {'a': 'first', 'b': ''}
    """
    return _Reader(source).read("default_config")


class _Reader:
    """Follows the calls of ``dict`` through the functions of one module."""

    def __init__(self, source: str):
        self.functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
        self.behind: dict[int, str] = {}  # line number -> comment behind code
        self.alone: dict[int, str] = {}  # line number -> comment that has the line for itself
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            words = token.string.lstrip("# ").strip()
            if token.type == tokenize.COMMENT and not words.startswith(_NO_COMMENT):
                where = self.behind if token.line[: token.start[1]].strip() else self.alone
                where[token.start[0]] = words

    def read(self, function: str) -> dict[str, str]:
        found: dict[str, str] = {}
        node = self.functions[function]
        self._walk(self._returned(node), node, "", found)
        return found

    def _walk(self, node: ast.expr, function: ast.FunctionDef, prefix: str, found: dict[str, str]) -> None:
        for name, place, value in self._entries(node, function):
            found[prefix + name] = self._comment(place, value)
            called = self.functions.get(value.func.id) if _is_named_call(value) else None
            if called is not None:
                found[prefix + name] = found[prefix + name] or (ast.get_docstring(called) or "").split("\n")[0]
                self._walk(self._returned(called), called, f"{prefix}{name}.", found)
            else:
                self._walk(value, function, f"{prefix}{name}.", found)

    def _entries(self, node: ast.expr, function: ast.FunctionDef) -> list[tuple[str, ast.AST, ast.expr]]:
        """(name, where it stands, value) of the entries of an expression that makes a dictionary; else nothing."""
        if isinstance(node, ast.Name):
            made = _assigned(function, node.id)
            return [] if made is None else self._entries(made, function)
        if isinstance(node, ast.Dict):
            named = [(k, v) for k, v in zip(node.keys, node.values, strict=True) if isinstance(k, ast.Constant)]
            return [(k.value, k, v) for k, v in named]
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict":
            return [(k.arg, k, k.value) for k in node.keywords if k.arg]
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("ConfigDict") and node.args:
            return self._entries(node.args[0], function)
        return []

    def _comment(self, place: ast.AST, value: ast.expr) -> str:
        if words := self.behind.get(place.lineno) or self.behind.get(value.end_lineno):
            return words
        lines = []
        while (above := place.lineno - 1 - len(lines)) in self.alone:
            lines.insert(0, self.alone[above])
        return " ".join(lines)

    def _returned(self, function: ast.FunctionDef) -> ast.expr:
        return next(node.value for node in ast.walk(function) if isinstance(node, ast.Return))


def _is_named_call(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def _assigned(function: ast.FunctionDef, name: str) -> ast.expr | None:
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return node.value
    return None


def flatten(tree: dict, prefix: str = "") -> dict[str, object]:
    """Nested dictionaries as {"a.b": value}; an empty dictionary is a value, so that a group of free keys is seen."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def config_keys() -> list[str]:
    """Every dotted key of the default configuration."""
    return list(flatten(config_module.default_config().to_dict()))


def format_keys(config=None) -> str:
    """One line a key, in groups: ``train.steps = 100  # GRPO steps``.

    Args:
      config: whose values are shown; one that is not the default's has a star and the default behind it, a key that
        the objective sets has its value behind it. None: the default configuration.
    """
    defaults = flatten(config_module.default_config().to_dict())
    values = defaults if config is None else flatten(config.to_dict())
    named = objective_keys.NAMED.get(values["train.objective"])
    meant = {} if named is None else {f"train.{key}": value for key, value in named._asdict().items()}
    comments = read_comments(pathlib.Path(config_module.__file__).read_text(encoding="utf-8"))
    places = {key: place for place, key in enumerate(comments)}
    ordered = sorted(values, key=lambda key: ("." in key, places.get(key, len(places))))  # keys without a group first
    lines, group = [], None
    for key in ordered:
        value = values[key]
        top = key.rpartition(".")[0].partition(".")[0]
        if top != group:
            group, words = top, comments.get(top, "")
            lines += ["", f"[{group}]" + (f"  {words}" if words else "")] if group else []
        mark, was = " ", ""
        if key not in defaults or defaults[key] != value:
            mark, was = "*", f"  (default: {defaults[key]!r})" if key in defaults else "  (no default)"
        words = comments.get(key, "")
        if value is None and key in meant:
            was = f" ({meant[key]!r} of objective {values['train.objective']!r}){was}"
        lines.append(f"{mark} {key} = {value!r}{was}" + (f"  # {words}" if words else ""))
    if any(line.startswith("*") for line in lines):
        lines += ["", "* differs from the default"]
    return "\n".join(lines)
