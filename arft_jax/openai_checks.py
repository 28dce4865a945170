"""What the values of ``config.openai`` must be; each violation with its config key."""

import json
import math

PROMPTS = ("agent", "plain")
QUESTION = "{question}"  # in a prompt of one's own: where the question goes
FILE = "file:"  # what a prompt begins with that names a file
_OWN_FIELDS = ("model", "messages", "stream", "n", "temperature", "max_tokens", "max_completion_tokens", "stop")


def check_openai(o) -> list[str]:
    """Every violation in the group; a model and a key are needed only where a server is asked.

    Args:
      o: ``config.openai``.
    """
    problems = []
    if "@" in o.base_url:
        problems.append("base_url must carry no user or password: got one with '@' (config.openai.base_url)")
    elif not o.base_url.startswith(("http://", "https://")):
        problems.append(f"base_url must begin with http:// or https://: got {o.base_url!r} (config.openai.base_url)")
    if o.prompt not in PROMPTS and not o.prompt.startswith(FILE) and QUESTION not in o.prompt:
        problems.append(
            f"prompt must be {' or '.join(PROMPTS)}, {FILE}PATH of a text, or a text with {QUESTION}: got {o.prompt!r} "
            "(config.openai.prompt)"
        )
    problems += _check_pairs("extra", o.extra, '{"name of a field": JSON value}', _is_json)
    problems += _check_pairs("prices", o.prices, '{"model": (dollars in, dollars out, dollars cached in)}', _is_price)
    for name in [name for name, _ in o.extra if name in _OWN_FIELDS] if not problems else []:
        problems.append(f"extra must hold no field that other keys set: got {name!r} (config.openai.extra)")
    if not problems and o.budget_dollars and o.model and o.model not in dict(o.prices):
        problems.append(
            f"prices must have that of the model where budget_dollars is set: got none of {o.model!r} "
            "(config.openai.prices, config.openai.budget_dollars)"
        )
    return problems


def _check_pairs(key: str, value, form: str, fits) -> list[str]:
    is_pairs = isinstance(value, tuple) and all(
        isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and pair[0] and fits(pair[1])
        for pair in value
    )
    if is_pairs and len({name for name, _ in value}) == len(value):
        return []
    return [f"{key} must be of the form {form}: got {value!r} (config.openai.{key})"]


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
