"""What an address says of itself; nothing is looked up."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether a name or address is of this machine alone.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.2", "::1", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
