"""Only public addresses of allowed hosts are fetched, however a URL is spelled."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humo.errors import RequestError
from humo.server.url_fetch import check_url, fetch_url, public_address

HOSTS = ("files.example.com",)

SPELLINGS = [
    "http://files.example.com/a",
    "ftp://files.example.com/a",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_x",
    "https://127.0.0.1/a",
    "https://127.1/a",
    "https://2130706433/a",
    "https://0x7f000001/a",
    "https://0x7f.0.0.1/a",
    "https://0177.0.0.1/a",
    "https://017700000001/a",
    "https://127.0.0.1.:443/a",
    "https://[::1]/a",
    "https://[::ffff:127.0.0.1]/a",
    "https://[0:0:0:0:0:ffff:7f00:1]/a",
    "https://[fe80::1%25lo]/a",
    "https://localhost/a",
    "https://LOCALHOST/a",
    "https://localhost./a",
    "https://169.254.169.254/latest/meta-data",
    "https://metadata.google.internal/a",
    "https://10.0.0.1/a",
    "https://192.168.0.1/a",
    "https://100.64.0.1/a",
    "https://0/a",
    "https://0.0.0.0/a",
    "https://①②⑦.⓪.⓪.①/a",
    "https://127。0。0。1/a",
    "https://files.example.com@127.0.0.1/a",
    "https://files.example.com:443@127.0.0.1/a",
    "https://user:files.example.com@127.0.0.1/a",
    "https://127.0.0.1\\@files.example.com/a",
    "https://files.example.com\\@127.0.0.1/a",
    "https://127.0.0.1#@files.example.com/a",
    "https://127.0.0.1?@files.example.com/a",
    "https://files.example.com.127.0.0.1.nip.io/a",
    "https://files.example.com.evil.com/a",
    "https://evil.com/files.example.com",
    "https://files.example.com:8080/a",
    "https://files.example.com:22/a",
    "https://files.example.com%2eevil.com/a",
    "https://files.example.com%00.evil.com/a",
    "https://files.example.com\t.evil.com/a",
    "https://files.example.com/a\r\nHost: evil.com",
    " https://files.example.com/a",
    "https:///a",
    "https:files.example.com/a",
    "//files.example.com/a",
    "https://fıles.example.com/a",
    "https://files。example.com/a",
]


@pytest.mark.parametrize("url", SPELLINGS)
def test_no_forbidden_url_is_fetched(url: str) -> None:
    def resolve(host: str) -> Collection[str]:
        raise AssertionError(f"{host} was resolved")

    with pytest.raises(RequestError) as caught:
        fetch_url(url, allowed_hosts=HOSTS, max_bytes=10, field="image", resolve=resolve)
    assert str(caught.value) == (
        "image: cannot be fetched from this URL; "
        "upload the file, or send a URL at one of the allowed hosts: files.example.com"
    )


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["93.184.216.34", "127.0.0.1"],
        ["10.1.2.3"],
        ["169.254.169.254"],
        ["100.64.0.1"],
        ["0.0.0.0"],
        ["224.0.0.1"],
        ["255.255.255.255"],
        ["::1"],
        ["::ffff:10.0.0.1"],
        ["::ffff:93.184.216.34", "::ffff:127.0.0.1"],
        ["fe80::1"],
        ["fc00::1"],
        ["2002:7f00:1::"],
        [],
    ],
)
def test_an_allowed_host_with_a_private_address_is_rejected(addresses: list[str]) -> None:
    with pytest.raises(RequestError, match="cannot be fetched from this URL"):
        fetch_url(
            "https://files.example.com/a", allowed_hosts=HOSTS, max_bytes=10, field="image", resolve=lambda _: addresses
        )


@given(st.ip_addresses())
def test_only_public_addresses_pass(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if not address.is_global:
        with pytest.raises(ValueError, match="not public"):
            public_address([str(address)])


def test_the_connection_goes_to_the_checked_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host is not resolved a second time, when it could have another address."""
    connected: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], _: float) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("resolved again"))
    with pytest.raises(RequestError):
        fetch_url(
            "https://files.example.com/a?b=c",
            allowed_hosts=HOSTS,
            max_bytes=10,
            field="image",
            resolve=lambda _: ["93.184.216.34"],
        )
    assert connected == [("93.184.216.34", 443)]


def test_a_plain_url_at_an_allowed_host_passes() -> None:
    assert check_url("https://files.example.com:443/a/b.png?x=%20y", HOSTS).path == "/a/b.png"
