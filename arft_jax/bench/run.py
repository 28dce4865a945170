"""A sitting: this library and its peers in turn, several times over, and the ratios of what they reached."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from arft_jax.bench.drill import tool_drill
from arft_jax.bench.measure import UNITS, Ours
from arft_jax.bench.peers import Peer
from arft_jax.build.parts import set_up_jax
from arft_jax.config_checks import validate
from arft_jax.io import terminal
from arft_jax.report.timeline import timeline_plot

OURS = "arft_jax"


def spread(values: Sequence[float]) -> dict[str, float]:
    """Least, middle and largest: [3, 1, 2] gives min 1, median 2, max 3."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def ratios(rates: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """By peer the spread of our rate over the peer's of the same round: {ours: [4, 9], x: [2, 3]} gives 2, 2.5, 3."""
    ours = rates[OURS]
    return {
        name: spread([a / b for a, b in zip(ours, theirs, strict=True)])
        for name, theirs in rates.items()
        if name != OURS
    }


def sit(ours: Any, peers: Sequence[Peer], figures: Sequence[str], repeats: int) -> dict[str, Any]:
    """Each figure ``repeats`` times by each side, one side after the other in every round."""
    results = {}
    for figure in figures:
        sides = {OURS: ours} | {peer.name: peer for peer in peers if figure in peer.figures}
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for side in sides.values():
            side.measure(figure)  # warms caches and, where that is done at first use, compiles
        for _ in range(repeats):
            for name, side in sides.items():
                rates[name].append(side.measure(figure))
        results[figure] = {
            "unit": UNITS[figure],
            "rates": rates,
            "spread": {name: spread(values) for name, values in rates.items()},
            "ratio_to": ratios(rates),
        }
        if hasattr(ours, "bound") and figure == "decode":
            results[figure]["bound"] = bound = ours.bound()
            results[figure]["share_of_bound"] = spread([rate / bound for rate in rates[OURS]])
        terminal.say(figure_line(figure, results[figure]), file=sys.stderr)
    return results


def figure_line(name: str, result: Mapping[str, Any]) -> str:
    """A figure for people: the median of every side, then the ratios as min / median / max."""
    sides = ", ".join(f"{side} {values['median']:.2f}" for side, values in result["spread"].items())
    against = "; ".join(
        f"{r['min']:.2f} / {r['median']:.2f} / {r['max']:.2f} times {peer}" for peer, r in result["ratio_to"].items()
    )
    share = f"; {100 * result['share_of_bound']['median']:.0f} % of the bound" if "bound" in result else ""
    return f"{name} ({result['unit']}): {sides}{'; ' if against else ''}{against}{share}"


def bench(
    config,
    *,
    against: Mapping[str, tuple[str, str]],
    figures: Sequence[str] = tuple(UNITS),
    repeats: int = 3,
    drill: bool = True,
    picture: str = "",
) -> dict[str, Any]:
    """Runs a sitting.

    Args:
      config: of the shape.
      against: (python, script) by peer.
      figures: names in :data:`UNITS`.
      repeats: rounds of a figure.
      drill: also hold late and dead tools against instant ones.
      picture: PNG of the slots of one rollout over time; empty: none.

    Raises:
      ValueError: a bad config or figure, or a peer that cannot be run.
    """
    unknown = sorted(set(figures) - set(UNITS))
    if unknown or repeats < 1:
        raise ValueError(
            f"figures must be among {', '.join(UNITS)} and repeats at least 1: got {', '.join(unknown) or 'these'}, "
            f"repeats={repeats} (--figures, --repeats)"
        )
    validate(config)
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(name, *where)) for name, where in against.items()]
        set_up_jax(config)
        ours = Ours(config)
        result: dict[str, Any] = {"machine": machine(), "versions": versions(peers)}
        result["figures"] = sit(ours, peers, figures, repeats)
    result["host"] = ours.costs()
    if drill:
        result["tools"] = tool_drill(ours)
    if picture:
        path = pathlib.Path(picture)
        path.parent.mkdir(parents=True, exist_ok=True)
        timeline_plot(ours.timeline(), f"{config.name}: slots of one rollout", path)
        result["picture"] = str(path)
    return result


def machine() -> dict[str, Any]:
    """Where and when."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "system": platform.platform(),
    }


def versions(peers: Sequence[Peer]) -> dict[str, dict[str, str]]:
    """Of what was run, by side; accelerator plugins where there are any."""
    plugins = {d.name for d in importlib.metadata.distributions() if d.name.startswith(("jax-cuda", "libtpu"))}
    mine = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy", *sorted(plugins))}
    return {OURS: mine | {"python": platform.python_version()}} | {peer.name: peer.versions for peer in peers}


def format_text(result: Mapping[str, Any]) -> str:
    """The sitting for people."""
    lines = [figure_line(name, figure) for name, figure in result["figures"].items()]
    if "host" in result:
        lines.append(f"host: {100 * result['host']['host_frac_of_a_call']:.1f} % of a decode call's device time")
    for part in ("host", "tools"):
        if part in result:
            lines.append(f"{part}: {json.dumps(result[part])}")
    return "\n".join([*lines, f"picture: {result['picture']}"] if "picture" in result else lines)
