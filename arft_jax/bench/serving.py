"""A server under many clients, beside the rollout engine on the same requests: tokens/s, latencies, memory."""

import base64
import dataclasses
import json
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from arft_jax.build.parts import Parts, make
from arft_jax.build.plan import plan_policy
from arft_jax.data.images import encode_png
from arft_jax.rollout.request import Request
from arft_jax.serve.door import Door
from arft_jax.tools.toolbox import Toolbox
from arft_jax.trajectory import Image

N_BODIES = 128


def bodies(seed: int, max_tokens: int) -> list[dict[str, Any]]:
    """Questions of a few words over noise, each with a seed of its own: sampled at temperature 1.

    Args:
      seed: of words and pixels.
      max_tokens: of a reply.
    """
    rng, made = np.random.default_rng(seed), []
    words = ("red", "house", "seven", "which", "card", "left", "number", "emblem")
    for number in range(N_BODIES):
        text = " ".join(rng.choice(words, rng.integers(3, 12)).tolist())
        png = encode_png(Image(rng.integers(0, 256, (56, 84, 3), np.uint8)))
        url = "data:image/png;base64," + base64.b64encode(png).decode()
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": f"{text}?"}]
        made.append({"messages": [{"role": "user", "content": parts}], "max_tokens": max_tokens, "seed": number})
    return made


def engine_rate(config, asked: Sequence[dict[str, Any]], n_times: int) -> float:
    """Sampled tokens a second of the rollout engine, all requests queued at once.

    Args:
      config: of the model and its slots; weights are drawn where it names none.
      asked: of :func:`bodies`.
      n_times: how often each of them is rolled out.
    """
    parts = make(plan_policy(config))
    policy = parts.for_rollout(parts.first_params())
    requests = _requests(parts, asked)
    toolbox = Toolbox(parts.plan.offer, {}, {}, enabled=False)

    def play(some: list[Request]) -> float:
        begin = time.perf_counter()
        groups = parts.engine.run(policy, some, toolbox, rng=jax.random.key(0), temperature=1.0, max_turns=1)
        n_tokens = sum(int(row.loss_mask.sum()) for group in groups for row in group)
        return n_tokens / (time.perf_counter() - begin)

    with toolbox:
        play(requests[: parts.engine.limits.n_slots])  # compiles
        return play([dataclasses.replace(request, number=k) for k in range(n_times) for request in requests])


def _requests(parts: Parts, asked: Sequence[dict[str, Any]]) -> list[Request]:
    door = Door("bench", {}, parts.engine.renderer, parts.engine.limits)
    return [door.read(json.dumps(body).encode(), f"bench {number}").request for number, body in enumerate(asked)]


def server_load(
    flags: Sequence[str], asked: Sequence[dict[str, Any]], n_clients: int, seconds: float, tell: Callable[[str], None]
) -> dict[str, Any]:
    """A server in a process of its own under clients in another one.

    Args:
      flags: of ``arft-serve``.
      asked: of :func:`bodies`.
      n_clients: that ask at once.
      seconds: for which they ask.
      tell: takes a line now and then.

    Returns:
      What arft_jax/bench/load.py prints, ``tokens_per_s``, and ``rss_mb``: the server's memory, first and last fifth.

    Raises:
      RuntimeError: the server did not begin.
    """
    command = [sys.executable, "-m", "arft_jax", "serve", "--port=0", "--tools=off", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            line = " "
            while line and not line.startswith("serving "):
                line = server.stdout.readline()
            if not line:
                raise RuntimeError(f"the server must begin: got exit status {server.wait()}")
            url = line.rpartition(" at ")[2].strip()
            load = [sys.executable, "-m", "arft_jax.bench.load", url, str(n_clients), str(seconds)]
            with subprocess.Popen(load, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as clients:
                clients.stdin.write(json.dumps(list(asked)))
                clients.stdin.close()
                memory = _watch(server.pid, clients, tell)
                told = json.loads(clients.stdout.read())
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate()
    fifth = max(len(memory) // 5, 1)
    return told | {
        "tokens_per_s": told["n_tokens"] / told["seconds"],
        "rss_mb": [round(statistics.median(part)) for part in (memory[fifth : 2 * fifth] or memory, memory[-fifth:])],
        "stopped": server.returncode,
    }


def _watch(pid: int, clients: subprocess.Popen, tell: Callable[[str], None]) -> list[float]:
    """MiB of a process, every second until the clients have ended."""
    memory, begin = [], time.monotonic()
    while clients.poll() is None:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        memory.append(int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024)
        if len(memory) % 30 == 0:
            tell(f"{time.monotonic() - begin:.0f} s, server {memory[-1]:.0f} MiB")
        time.sleep(1)
    return memory


def format_text(result: dict[str, Any]) -> str:
    """The result for people."""
    load = result["server"]
    first, last = load["rss_mb"]
    latency = ", ".join(f"{name} {value:.2f} s" for name, value in load["latency_s"].items())
    statuses = ", ".join(f"{n} of status {status}" for status, n in load["statuses"].items())
    return "\n".join(
        [
            f"engine   {result['engine_tokens_per_s']:.0f} tokens/s",
            f"server   {load['tokens_per_s']:.0f} tokens/s, {result['ratio']:.2f} times the engine",
            f"requests {statuses}; latency {latency}",
            f"memory   {first} MiB in the second fifth, {last} MiB in the last one ({(last - first) / first:+.1%})",
        ]
    )
