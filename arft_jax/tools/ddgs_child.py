"""The process of one DuckDuckGo call: one JSON question on standard input, one JSON reply on standard output."""

import json
import resource
import signal
import sys

_MEMORY_BYTES = 2 << 30  # address space: the package's TLS library maps much of it without using it


def main() -> None:
    """Asks; any failure becomes ``{"fault": text}``."""
    question = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.setitimer(signal.ITIMER_REAL, question["timeout_s"] + 1.0)  # ends this process where its parent has died
    sys.path.insert(0, question["path"])  # where the parent found the package
    try:
        import ddgs

        timeout_s = max(1, int(question["timeout_s"]))  # of each wait: the parent ends the process in time
        with ddgs.DDGS(timeout=timeout_s) as engine:
            found = engine.text(question["query"], max_results=question["max_results"], backend="duckduckgo")
        reply = {"results": [{key: row.get(key) for key in ("title", "body", "href")} for row in found]}
    except Exception as error:
        reply = {"fault": f"{type(error).__name__}: {error}"[:500]}
    text = json.dumps(reply)
    if len(text) > question["max_bytes"]:
        text = json.dumps({"fault": f"a reply of more than {question['max_bytes']} bytes"})
    print(text)


if __name__ == "__main__":
    main()
