"""DuckDuckGo through the ``ddgs`` package, each call in a process of its own.

The package bounds neither the time nor the bytes of a call and starts threads that outlive it; a process can be ended
and its memory capped. It starts with an environment that is built, so that no key of the trainer's is in it.

One departure from what an empty list would say: the package reports a refused request and a query without results
in the same words, so both are infrastructure failures: the policy is never told "nothing found" because we were
blocked.

https://github.com/deedy5/ddgs, DDGS.text.
"""

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

from arft_jax.tools.call import Call, Cancelled, Fault
from arft_jax.tools.search_backend import Hit

_CHILD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ddgs_child.py")
_MAX_REPLY_BYTES = 1 << 20  # the child's cap on what it prints
_PASSED_ON = ("DDGS_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")  # the package's own settings


class Ddgs:
    """Text results of DuckDuckGo, scored 1 / rank.

    Raises:
      ValueError: the package is not installed.
    """

    def __init__(self):
        spec = importlib.util.find_spec("ddgs")
        if spec is None or spec.origin is None:
            raise ValueError(
                "the search back-end ddgs needs the package ddgs: pip install 'arft_jax[search]' "
                "(config.tools.search.backend)"
            )
        self._path = os.path.dirname(os.path.dirname(os.path.abspath(spec.origin)))

    def ask(self, request: dict[str, Any], call: Call) -> list[Hit]:
        """See remote_search.Service."""
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        environment |= {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        question = request | {"path": self._path, "timeout_s": max(call.left_s, 0.1), "max_bytes": _MAX_REPLY_BYTES}
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        call.check()
        with (
            subprocess.Popen([sys.executable, "-s", "-P", "-B", _CHILD], env=environment, **pipes) as process,
            call.ended_by(process.kill),
        ):
            try:
                out, _ = process.communicate(json.dumps(question).encode("ascii"), timeout=max(call.left_s, 0.0))
            except subprocess.TimeoutExpired:
                process.kill()
                raise Fault("no reply in time") from None
            except BaseException:
                process.kill()
                raise
        if call.cancelled:
            raise Cancelled
        return _hits(out, process.returncode)


def _hits(out: bytes, returncode: int) -> list[Hit]:
    try:
        reply = json.loads(out)
    except (ValueError, RecursionError):
        raise Fault(f"the search process ended with status {returncode} and no reply") from None
    match reply:
        case {"fault": str(text)}:
            raise Fault(text)
        case {"results": [*results]}:
            hits = []
            for rank, result in enumerate(results, start=1):
                match result:
                    case {"title": str(title), "body": str(body), **rest} if isinstance(rest.get("href", ""), str):
                        hits.append(Hit(title, body, 1.0 / rank, rest.get("href", "")))
                    case _:
                        raise Fault("a result that is not {'title': ..., 'body': ...}")
            return hits
    raise Fault("a reply that is not {'results': [...]}")
