"""Optimised HLO text, as XLA's printer writes it for CPU, GPU and TPU, read into instructions.

Source: xla/hlo/ir/hlo_instruction.cc (the printer). Only what a count of costs needs is read.
"""

import dataclasses
import math
import re

_BITS = {
    "pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32,
    "s64": 64, "u64": 64, "f16": 16, "bf16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128, "token": 0, "opaque": 0,
}  # fmt: skip
_HEADER = re.compile(r"^(ENTRY )?%?([\w.~-]+) \(.*->.*\{$")
_START = re.compile(r"^\s+(?:ROOT )?%?([\w.~-]+) = ")
_COMMENT = re.compile(r"/\*.*?\*/")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")
_THROUGH = {"copy", "copy-start", "copy-done", "bitcast", "convert", "reshape", "broadcast", "opt-barrier"}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: ``name = shape op(operands), attributes``."""

    name: str
    shape: str
    op: str
    inside: str
    attributes: str

    @property
    def operands(self) -> list[str]:
        """Names of what it reads."""
        return re.findall(r"%([\w.~-]+)", self.inside)

    def called(self, key: str) -> str:
        """Name of the computation under ``key``; empty: none."""
        found = re.search(rf"\b{key}=%?([\w.~-]+)", self.attributes)
        return found.group(1) if found else ""

    def branches(self) -> list[str]:
        """Computations of a conditional, the first for index 0 or False."""
        found = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        if found:
            return [name.strip().lstrip("%") for name in found.group(1).split(",")]
        return [self.called("false_computation"), self.called("true_computation")]

    def value(self, key: str, default: str) -> str:
        found = re.search(rf"\b{key}=([^,\s]+)", self.attributes)
        return found.group(1) if found else default

    def ints(self, key: str) -> list[int]:
        found = re.search(rf"\b{key}=\{{([\d,]*)\}}", self.attributes)
        return [int(d) for d in found.group(1).split(",") if d] if found else []

    def braced(self, key: str) -> str:
        """The balanced ``{...}`` under ``key``."""
        begin = self.attributes.index(f"{key}={{") + len(key) + 1
        return self.attributes[begin : _closing(self.attributes, begin) + 1]


@dataclasses.dataclass
class Computation:
    """Instructions by name, in the order of the text; ``root`` is the result's name."""

    name: str
    instructions: dict[str, Instruction] = dataclasses.field(default_factory=dict)
    root: str = ""


@dataclasses.dataclass
class Module:
    """Computations by name."""

    computations: dict[str, Computation]
    entry: str
    n_devices: int


def parse(text: str) -> Module:
    """Reads a module.

    Raises:
      ValueError: no entry computation.
    """
    computations, entry, current, lines = {}, "", None, []

    def close() -> None:
        if lines:
            one = _instruction("".join(lines))
            current.instructions[one.name] = one
            if lines[0].lstrip().startswith("ROOT "):
                current.root = one.name
            lines.clear()

    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            close()
            current = computations[header.group(2)] = Computation(header.group(2))
            entry = current.name if header.group(1) else entry
        elif current is not None and _START.match(line):
            close()
            lines.append(line)
        elif lines and line != "}":  # an attribute that runs over several lines
            lines.append(line)
    close()
    if not entry:
        raise ValueError(f"text must be an HLO module with an entry computation: got {text[:80]!r}")
    sizes = [re.search(rf"\b{key}=(\d+)", text.split("\n", 1)[0]) for key in ("replica_count", "num_partitions")]
    return Module(computations, entry, math.prod(int(found.group(1)) for found in sizes if found))


def _closing(text: str, begin: int) -> int:
    """Index of the bracket that closes the one at ``begin``; brackets within quotes do not count."""
    depth, quoted, at = 0, False, begin
    while at < len(text):
        c = text[at]
        if c == "\\" and quoted:
            at += 1
        elif c == '"':
            quoted = not quoted
        elif not quoted and c in "({[":
            depth += 1
        elif not quoted and c in ")}]":
            depth -= 1
            if depth == 0:
                return at
        at += 1
    raise ValueError(f"brackets must be balanced: got {text[begin : begin + 80]!r}")


def _instruction(line: str) -> Instruction:
    begin = _START.match(line)
    rest = _COMMENT.sub("", line[begin.end() :])
    if rest.startswith("("):
        end = _closing(rest, 0) + 1
    else:
        end = rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    return Instruction(begin.group(1), shape, rest[:opening], rest[opening + 1 : closing], rest[closing + 1 :])


def arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """(type, dimensions) of every array of a shape, in order.

    For example ``(bf16[8,4]{1,0:T(8,128)}, u32[]{:S(2)})`` gives [("bf16", (8, 4)), ("u32", ())].
    """
    found = _ARRAY.findall(shape)
    return [(kind, tuple(int(d.lstrip("<=")) for d in dims.split(",") if d)) for kind, dims in found]


def n_bytes(shape: str) -> float:
    """Bytes of all arrays of a shape, without a layout's padding."""
    return sum(math.prod(dims) * _BITS.get(kind, 8) / 8 for kind, dims in arrays(shape))  # the float8 kinds: 8 bits


def group_size(i: Instruction, n_devices: int) -> int:
    """Devices that take part in one exchange together.

    ``{{0,1},{2,3}}``, ``[2,4]<=[8]`` (2 groups of 4) and ``mesh['a'=2,'b'=4] {'b'}`` (axes b; ``'b':(1)2`` is a part of
    one, 2 long) say which; ``{}`` or nothing means all.
    """
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", i.attributes):
        ends = re.findall(r"\{(\d+),(\d+)", pairs.group(1) + "}")
        return 2 if any(a != b for a, b in ends) else 1
    if found := re.search(r"replica_groups=mesh\[(.*?)\]\s*\{(.*?)\}", i.attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", found.group(1))}
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", found.group(2))
        return math.prod(int(part) if part else sizes[name] for name, part in axes)
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", i.attributes):
        return int(found.group(1))
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", i.attributes):
        return len(found.group(1).split(","))
    return n_devices


def window(i: Instruction, n_spatial: int) -> list[tuple[int, int, int, int, int]]:
    """(size, stride, low padding, input dilation, kernel dilation) of each spatial dimension of a convolution."""
    found = re.search(r"\bwindow=\{([^}]*)\}", i.attributes)
    parts = dict(part.split("=") for part in found.group(1).split()) if found else {}

    def each(key: str, default: str) -> list[str]:
        return parts[key].split("x") if key in parts else [default] * n_spatial

    sizes, strides = each("size", "1"), each("stride", "1")
    pads, left, right = each("pad", "0_0"), each("lhs_dilate", "1"), each("rhs_dilate", "1")
    return [
        (int(sizes[d]), int(strides[d]), int(pads[d].split("_")[0]), int(left[d]), int(right[d]))
        for d in range(n_spatial)
    ]


def trip_count(loop: Instruction, comp: Computation, module: Module) -> int | None:
    """How often a loop runs: as the compiler wrote it down, else as its counter says; None where neither tells.

    A condition ``counter < limit and more`` gives the most that it can run.
    """
    if found := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(found.group(1))
    condition, body = (module.computations[loop.called(key)] for key in ("condition", "body"))
    test = _value(condition.root, condition, module, None)
    if test is None or test[0] != "compare" or test[1][0] != "element":
        return None
    _, (_, index), limit, direction = test
    start = _carried(comp.instructions[loop.operands[0]], index, comp, module)
    if limit[0] == "element":
        limit = _carried(comp.instructions[loop.operands[0]], limit[1], comp, module)
    step = _carried(body.instructions[body.root], index, body, module)
    if None in (start, limit, step) or (start[0], limit[0], step[:2]) != ("constant", "constant", ("sum", index)):
        return None
    span, by = limit[1] - start[1], step[2]
    if direction in ("GT", "GE"):
        span, by = -span, -by
    if direction in ("LE", "GE"):
        span += 1
    return max(0, math.ceil(span / by)) if by > 0 else None


def _carried(values: Instruction, index: int, comp: Computation, module: Module) -> tuple | None:
    """What a tuple holds at an index."""
    return _value(values.operands[index], comp, module, None) if values.op == "tuple" else None


def _value(name: str, comp: Computation, module: Module, given: list | None) -> tuple | None:
    """A scalar as ("constant", n), ("element", i of the loop's tuple), ("sum", i, n), ("compare", a, b, direction).

    Args:
      given: values of the parameters, within a fusion; None: the one parameter is the loop's tuple.
    """
    i = comp.instructions[name]
    if i.op == "constant":
        return ("constant", int(i.inside)) if re.fullmatch(r"-?\d+", i.inside) else None
    if i.op == "parameter":
        return given[int(i.inside)] if given else None
    if i.op == "get-tuple-element":
        source = comp.instructions[i.operands[0]]
        index = int(i.value("index", "0"))
        if source.op == "parameter" and not given:
            return ("element", index)
        return _carried(source, index, comp, module)
    if i.op in ("fusion", "call") or i.op in _THROUGH | {"add", "compare", "and"}:
        values = [_value(operand, comp, module, given) for operand in i.operands]
        return _combined(i, values, module)
    return None


def _combined(i: Instruction, values: list, module: Module) -> tuple | None:
    if i.op in ("fusion", "call"):
        inner = module.computations[i.called("calls") or i.called("to_apply")]
        return _value(inner.root, inner, module, values)
    if i.op in _THROUGH:
        return values[0]
    if i.op == "and":
        tests = [value for value in values if value is not None and value[0] == "compare"]
        return tests[0] if tests else None
    if None in values:
        return None
    a, b = values
    if a[0] == "constant":
        a, b = b, a
        swapped = True
    else:
        swapped = False
    if i.op == "add":
        return ("sum", a[1], b[1]) if (a[0], b[0]) == ("element", "constant") else None
    direction = i.value("direction", "")
    return ("compare", a, b, direction.translate(str.maketrans("LG", "GL")) if swapped else direction)
