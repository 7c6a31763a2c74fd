"""Whose request a proxy passes on."""

from __future__ import annotations

import pytest

from realtime.domain.addresses import client_address, networks

PROXIES = networks(["127.0.0.1", "10.0.0.0/8", "::1"])


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        pytest.param("203.0.113.9", "", "203.0.113.9", id="nobody between"),
        pytest.param("203.0.113.9", "198.51.100.1", "203.0.113.9", id="a stranger's word is not taken"),
        pytest.param("127.0.0.1", "198.51.100.1", "198.51.100.1", id="a proxy's is"),
        pytest.param("127.0.0.1", "1.1.1.1, 198.51.100.1", "198.51.100.1", id="what the client wrote itself is not"),
        pytest.param("127.0.0.1", "198.51.100.1, 10.2.3.4", "198.51.100.1", id="a proxy behind a proxy"),
        pytest.param("127.0.0.1", "10.2.3.4", "10.2.3.4", id="a client within the trusted network"),
        pytest.param("127.0.0.1", "", "127.0.0.1", id="a proxy that says nothing"),
        pytest.param("127.0.0.1", "198.51.100.1, unknown", "127.0.0.1", id="no address"),
        pytest.param("::ffff:127.0.0.1", "2001:db8::1", "2001:db8::1", id="IPv6"),
        pytest.param("", "198.51.100.1", "", id="a Unix socket has no address to trust"),
    ],
)
def test_the_client_is_the_last_address_that_a_trusted_proxy_vouches_for(
    peer: str, forwarded_for: str, client: str
) -> None:
    assert client_address(peer, forwarded_for, PROXIES) == client
