"""What must be so before a chat completions server is asked: the package, a URL, a key in the environment."""

import importlib.util
import os
import urllib.parse

from arft_jax.io.addresses import is_loopback


def check_access(server, keys: str, asked_by: str) -> None:
    """Raises a ValueError where no model can be asked; sends nothing.

    Args:
      server: a group of the configuration with ``model``, ``base_url`` and ``key_env``.
      keys: the group's name, for messages.
      asked_by: what of the command line or the configuration wants the server, for messages.
    """
    if importlib.util.find_spec("openai") is None:
        raise ValueError(f"the openai package must be installed: pip install 'arft_jax[openai]' ({asked_by})")
    if not server.model:
        raise ValueError(f"a model must be named: got none ({keys}.model)")
    try:
        parts = urllib.parse.urlsplit(server.base_url)
        is_url = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        is_url = False
    if not is_url:
        got = f"got {server.base_url!r} ({keys}.base_url)"
        raise ValueError(f"base_url must be http://host... or https://host...: {got}")
    key_of(server, keys)


def key_of(server, keys: str) -> str:
    """The server's key from the environment; empty where it takes none.

    Args:
      server, keys: as above.

    Raises:
      ValueError: the variable is not set, or holds what is no key.
    """
    key = os.environ.get(server.key_env, "").strip() if server.key_env else ""
    if not key and server.key_env and not is_loopback(urllib.parse.urlsplit(server.base_url).hostname or ""):
        raise ValueError(
            f"the environment variable {server.key_env} must hold the server's key: it is not set; an empty "
            f"{keys}.key_env sends none ({keys}.key_env)"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError(
            f"the environment variable {server.key_env} must hold printable ASCII without spaces ({keys}.key_env)"
        )
    return key
