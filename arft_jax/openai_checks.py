"""What the values of ``config.openai`` and ``config.rewards.judge`` must be; each violation with its config key."""

import json
import math

PROMPTS = ("agent", "plain")
QUESTION = "{question}"  # in a prompt of one's own: where the question goes
ANSWER = "{answer}"  # in a rubric of one's own: where the answer goes
FILE = "file:"  # what a prompt begins with that names a file
_OWN_FIELDS = ("model", "messages", "stream", "n", "temperature", "max_tokens", "max_completion_tokens", "stop")


def check_openai(o) -> list[str]:
    """Every violation in the group; a model and a key are needed only where a server is asked.

    Args:
      o: ``config.openai``.
    """
    problems = _check_url(o, "openai")
    if o.prompt not in PROMPTS and not o.prompt.startswith(FILE) and QUESTION not in o.prompt:
        problems.append(
            f"prompt must be {' or '.join(PROMPTS)}, {FILE}PATH of a text, or a text with {QUESTION}: got {o.prompt!r} "
            "(config.openai.prompt)"
        )
    return problems + _check_tables(o, "openai")


def check_judge(j) -> list[str]:
    """Every violation in the group; a model and a key are needed only where the judge is asked.

    Args:
      j: ``config.rewards.judge``.
    """
    problems = _check_url(j, "rewards.judge")
    if j.rubric and not j.rubric.startswith(FILE) and ANSWER not in j.rubric:
        problems.append(
            f"rubric must be {FILE}PATH of a text, or a text with {ANSWER}: got {j.rubric!r} "
            "(config.rewards.judge.rubric)"
        )
    return problems + _check_tables(j, "rewards.judge")


def _check_url(group, name: str) -> list[str]:
    if "@" in group.base_url:
        return [f"base_url must carry no user or password: got one with '@' (config.{name}.base_url)"]
    if not group.base_url.startswith(("http://", "https://")):
        return [f"base_url must begin with http:// or https://: got {group.base_url!r} (config.{name}.base_url)"]
    return []


def _check_tables(group, name: str) -> list[str]:
    """Fields that are sent, prices, and whether a budget can be kept."""
    problems = _check_pairs(f"{name}.extra", group.extra, '{"name of a field": JSON value}', _is_json)
    form = '{"model": (dollars in, dollars out, dollars cached in)}'
    problems += _check_pairs(f"{name}.prices", group.prices, form, _is_price)
    for field in [field for field, _ in group.extra if field in _OWN_FIELDS] if not problems else []:
        problems.append(f"extra must hold no field that other keys set: got {field!r} (config.{name}.extra)")
    if not problems and group.budget_dollars and group.model and group.model not in dict(group.prices):
        problems.append(
            f"prices must have that of the model where budget_dollars is set: got none of {group.model!r} "
            f"(config.{name}.prices, config.{name}.budget_dollars)"
        )
    return problems


def _check_pairs(key: str, value, form: str, fits) -> list[str]:
    is_pairs = isinstance(value, tuple) and all(
        isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and pair[0] and fits(pair[1])
        for pair in value
    )
    if is_pairs and len({name for name, _ in value}) == len(value):
        return []
    return [f"{key.rpartition('.')[2]} must be of the form {form}: got {value!r} (config.{key})"]


def _is_json(value) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _is_price(value) -> bool:
    return (
        isinstance(value, tuple | list)
        and len(value) in (2, 3)
        and all(isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v < math.inf for v in value)
    )
