"""Where webhooks may go: the ways to write an address of ours, and what allows it."""

from __future__ import annotations

import ipaddress

import pytest

from foreman.core import destinations
from foreman.core.destinations import RefusedDestinationError, check, dialable, parse

OURS = [
    "127.0.0.1", "127.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.5", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1", "192.0.0.192", "192.88.99.1", "::1", "::", "fe80::1", "fc00::1",
    "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b:1::7f00:1", "2002:7f00:1::", "2002:a00:1::", "2001:0:4136:e378:8000:63bf:80ff:fffe", "2001:db8::1", "4000::1", "fec0::1",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]


@pytest.mark.parametrize("address", OURS)
def test_addresses_of_ours(address: str) -> None:
    assert not dialable(ipaddress.ip_address(address), 80, ())


@pytest.mark.parametrize("address", PUBLIC)
def test_public_ones(address: str) -> None:
    assert dialable(ipaddress.ip_address(address), 80, ())


@pytest.mark.parametrize(
    ("rules", "url", "goes"),
    [
        ("192.168.1.0/24", "http://192.168.1.5/x", True),
        ("192.168.1.0/24", "http://192.168.2.5/x", False),
        ("192.168.1.5:9000", "http://192.168.1.5:9000/x", True),
        ("192.168.1.5:9000", "http://192.168.1.5/x", False),
        ("127.0.0.0/8", "http://[::ffff:127.0.0.1]/x", True),
        ("127.0.0.1", "http://localhost:5/x", True),
        ("[::1]:9", "http://[::1]:9/", True),
        ("localhost:9009", "http://LOCALHOST:9009/", True),
        ("localhost:9009", "http://localhost:9010/", False),
        ("*.lan", "https://n8n.lan/hook", True),
        ("*.lan", "http://127.0.0.1/", False),
        ("n8n", "http://n8n:5678/", True),
        ("", "https://example.com/hook", True),
    ],
)
def test_rules(rules: str, url: str, goes: bool) -> None:
    try:
        check(url, parse(rules))
        seen = True
    except RefusedDestinationError:
        seen = False
    assert seen is goes


def test_a_name_that_no_rule_knows_must_still_be_resolved() -> None:
    assert check("https://example.com/x", ()) is not None
    assert check("https://example.com/x", parse("example.com")) is None
    assert check("https://1.1.1.1/x", ()) is None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:7/x", r"FOREMAN_WEBHOOK_ALLOW=127\.0\.0\.1:7 "),
        ("http://[::1]/x", r"FOREMAN_WEBHOOK_ALLOW=\[::1\]:80 "),
        ("http://[::ffff:7f00:1]:7/", r"leads to 127\.0\.0\.1, which .* FOREMAN_WEBHOOK_ALLOW=127\.0\.0\.1:7 "),
        ("https://localhost/x", r"FOREMAN_WEBHOOK_ALLOW=localhost:443 "),
        ("http://a.localhost./x", r"FOREMAN_WEBHOOK_ALLOW=a.localhost"),
        ("http://2130706433/", "disguise"), ("http://0x7f000001/", "disguise"), ("http://127.1/", "disguise"),
        ("http://017700000001/", "disguise"), ("http://0x7f.1/", "disguise"),
        ("http://user:pw@example.com/", "user or a password"), ("http://@example.com/", "user or a password"),
        ("ftp://example.com/", "http or https"), ("example.com/x", "http or https"), ("http:///x", "http or https"),
        ("http://ex ample.com/", "blanks"), ("http://example.com/\r\nX: y", "blanks"), ("http://exämple.com/", "plain"),
        ("http://example.com:99999/", "its port"), ("http://example.com:0/", "its port"), ("http://example.com:x/", "its port"),
        ("http://[::1/", "no URL"), ("http://[v1.fe]/", "no (URL|IPv6)"), ("http://[a.lan]/", "no (URL|IPv6)"),
        ("http://example.com\\@127.0.0.1/", "blanks"), ("http://%31%32%37.0.0.1/", "no host name"),
        ("http://" + "a" * 3000 + "/", "2048"),
    ],
)  # fmt: skip
def test_refused_with_what_to_change(url: str, why: str) -> None:
    with pytest.raises(RefusedDestinationError, match=why):
        check(url, ())


def test_the_line_it_prints_allows_it() -> None:
    for url in (
        "http://127.0.0.1:7/x",
        "http://[::1]/x",
        "https://localhost./x",
        "http://[::ffff:10.0.0.1]/",
        "http://[fe80::1%25eth0]/",
    ):
        line = destinations.allowing(destinations.read(url)).partition("=")[2]
        assert check(url, parse(line)) is None
