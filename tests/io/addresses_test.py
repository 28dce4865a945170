"""Addresses of this machine and of others."""

import pytest

from arft_jax.io.addresses import is_loopback


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_an_address_of_this_machine_is_one(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.0.0.1", "localhost.example.org", "example.org"])
def test_an_address_that_others_may_reach_is_none(host):
    assert not is_loopback(host)
