"""What requests cost: tokens as the servers count them, dollars by a price table, and a budget.

Prices are in dollars per million tokens, of the prompt, of the reply and, where it differs, of that part of the prompt
that the server had cached. Tokens of reasoning are part of the reply, as in OpenAI's usage records.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

MILLION = 1_000_000


@dataclasses.dataclass(frozen=True)
class Usage:
    """Tokens of one reply, or of several.

    Args:
      prompt_tokens: of the messages, images included.
      cached_tokens: those of them that the server had cached.
      completion_tokens: of the reply, reasoning included.
      reasoning_tokens: those of them that are not shown.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    @property
    def total(self) -> int:
        """Tokens of prompt and reply."""
        return self.prompt_tokens + self.completion_tokens


def usage_of(value: Any) -> Usage | None:
    """The usage record of a reply; None where it has none that can be read.

    >>> usage_of({"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}})
    Usage(prompt_tokens=9, cached_tokens=4, completion_tokens=2, reasoning_tokens=0)
    """
    if not isinstance(value, Mapping):
        return None
    details = [value.get(f"{part}_tokens_details") for part in ("prompt", "completion")]
    prompt_details, completion_details = (part if isinstance(part, Mapping) else {} for part in details)
    prompt, completion = _count(value.get("prompt_tokens")), _count(value.get("completion_tokens"))
    if prompt is None:
        return None
    cached = min(_count(prompt_details.get("cached_tokens")) or 0, prompt)
    return Usage(prompt, cached, completion or 0, _count(completion_details.get("reasoning_tokens")) or 0)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


@dataclasses.dataclass
class Counts:
    """Requests to one model.

    Args:
      n_requests: that were sent.
      n_replies: that came back whole.
      n_unknown: whose cost is not known: replies without a usage record, and requests that the server may have served
        though no whole reply came back.
      usage: of the others.
    """

    n_requests: int = 0
    n_replies: int = 0
    n_unknown: int = 0
    usage: Usage = Usage()

    def add(self, replied: bool, known: bool, usage: Usage | None) -> None:
        """Counts a request; ``known``: without a usage record it has cost nothing."""
        self.n_requests += 1
        self.n_replies += replied
        self.n_unknown += usage is None and not known
        self.usage += usage or Usage()


class Meter:
    """Adds up what an evaluation costs, over all of its sessions.

    Args:
      prices: by model, in dollars per million tokens: (prompt, reply) or (prompt, reply, cached prompt).
      budget_dollars, budget_tokens: of all sessions; 0: no limit.
      n_processes: that share what the earlier sessions have left of the budget.
      keys: the group of the configuration that has the budget, for messages.
    """

    def __init__(
        self,
        prices: Mapping[str, Sequence[float]],
        budget_dollars: float = 0.0,
        budget_tokens: int = 0,
        n_processes: int = 1,
        keys: str = "config.openai",
    ):
        self._prices, self._n_processes = {name: tuple(price) for name, price in prices.items()}, n_processes
        self._keys = keys
        self._budget_dollars, self._budget_tokens = budget_dollars, budget_tokens
        self._earlier: dict[str, Counts] = {}
        self._now: dict[str, Counts] = {}

    def add(self, model: str, replied: bool, known: bool, usage: Usage | None, earlier: bool = False) -> None:
        """Counts a request to a model; ``earlier``: of a session before this one."""
        counts = (self._earlier if earlier else self._now).setdefault(model, Counts())
        counts.add(replied, known, usage)

    def dollars_of(self, model: str, usage: Usage) -> float | None:
        """What these tokens cost; None where the price is not known.

        >>> Meter({"a": (2.0, 8.0, 1.0)}).dollars_of("a", Usage(1_000_000, 500_000, 250_000))
        3.5
        """
        price = self._prices.get(model)
        if price is None:
            return None
        fresh, cached = usage.prompt_tokens - usage.cached_tokens, usage.cached_tokens
        return (fresh * price[0] + cached * price[-1 if len(price) > 2 else 0] + usage.completion_tokens * price[1]) / (
            MILLION
        )

    def _spent(self, part: Mapping[str, Counts]) -> tuple[float, int]:
        dollars = [self.dollars_of(model, counts.usage) or 0.0 for model, counts in part.items()]
        return sum(dollars), sum(counts.usage.total for counts in part.values())

    @property
    def is_spent(self) -> bool:
        """Whether the budget is used up, or this process's share of it."""
        before, now = self._spent(self._earlier), self._spent(self._now)
        return any(
            0 < budget <= earlier + self._n_processes * here
            for budget, earlier, here in zip((self._budget_dollars, self._budget_tokens), before, now, strict=True)
        )

    @property
    def budget(self) -> str:
        """The budget in words, with its key."""
        parts = [f"{self._budget_dollars:g} dollars ({self._keys}.budget_dollars)"] if self._budget_dollars else []
        parts += [f"{self._budget_tokens} tokens ({self._keys}.budget_tokens)"] if self._budget_tokens else []
        return " or ".join(parts) or "no limit"

    def totals(self) -> dict[str, dict[str, Any]]:
        """By model: ``requests``, ``replies``, ``unknown``, the fields of :class:`Usage`, and ``dollars`` or None."""
        found = {}
        for model in self._earlier | self._now:
            parts = [part[model] for part in (self._earlier, self._now) if model in part]
            usage = sum((part.usage for part in parts), Usage())
            found[model] = {
                "requests": sum(part.n_requests for part in parts),
                "replies": sum(part.n_replies for part in parts),
                "unknown": sum(part.n_unknown for part in parts),
                **dataclasses.asdict(usage),
                "dollars": self.dollars_of(model, usage),
            }
        return found

    def line(self) -> str:
        """What was spent so far, in a few words for a line of progress."""
        return "  ".join(_short(total) for total in self.totals().values()) or "no request"


def _short(total: Mapping[str, Any]) -> str:
    tokens = total["prompt_tokens"] + total["completion_tokens"]
    return f"{tokens} tokens" if total["dollars"] is None else f"${total['dollars']:.2f}"


def told(totals: Mapping[str, Mapping[str, Any]], keys: str = "config.openai") -> str:
    """The totals for people, a line for each model; ``keys``: the group of the configuration that has the prices."""
    lines = []
    for model, total in totals.items():
        cost = f"at an unknown price ({keys}.prices)" if total["dollars"] is None else f"${total['dollars']:.4f}"
        lines.append(
            f"{model}: {total['requests']} requests, {total['prompt_tokens']} tokens in ({total['cached_tokens']} "
            f"cached), {total['completion_tokens']} out ({total['reasoning_tokens']} reasoning), {cost}"
            + (f"; the cost of {total['unknown']} requests is not known" if total["unknown"] else "")
        )
    return "\n".join(lines)
