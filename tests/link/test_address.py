"""Link addresses and their TLS."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from foreman.link.address import LinkSetupError, LinkTLS, parse, spell
from foreman.link.client import LinkClient
from foreman.link.server import LinkServer
from foreman.link.wire import Pace
from tests.link.fakes import GATEWAY, HEAD, SECRET, WORKER, FakeDoor, linked, presence, wait_until

QUICK = Pace(open=0.05, back_off=(0.01, 0.05))


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:7480", ("127.0.0.1", 7480)), ("gateway:0", ("gateway", 0)), ("[::1]:65535", ("::1", 65535))],
)
def test_an_address_is_read_and_spelled_alike(text, address):
    assert parse(text) == address
    assert spell(*address) == text


def test_an_address_without_a_host_is_all_interfaces():
    assert parse(":7480") == ("", 7480)


@pytest.mark.parametrize("bad", ["", "7480", "host:", "host:x", "host:70000", "host:-1", "host:²"])
def test_half_an_address_is_refused(bad):
    with pytest.raises(ValueError, match="write host:port"):
        parse(bad)


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """A certificate for 127.0.0.1 that signs itself, so that it is its own authority."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=gateway", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-out", cert, "-keyout", key),
        ],
        check=True,
        capture_output=True,
    )
    return LinkTLS(cert=cert, key=key, ca=cert)


async def test_an_answer_travels_over_tls(tls):
    door = FakeDoor()
    sink = door.expect("job-1")
    channel = await linked(door, tls=tls)
    outlet = await channel.open()
    outlet.head(HEAD)
    outlet.data(b"x" * 300_000)
    outlet.end()
    await wait_until(lambda: "end" in sink.names)
    assert sink.body == b"x" * 300_000
    await channel.close()


@pytest.mark.parametrize("which", ["worker without", "worker that trusts another", "gateway without"])
async def test_ends_that_disagree_on_tls_find_no_link_and_say_why(tls, which):
    server_tls = None if which == "gateway without" else tls
    client_tls = {"worker without": None, "worker that trusts another": LinkTLS(), "gateway without": tls}[which]
    server = LinkServer(FakeDoor(), GATEWAY, SECRET, "127.0.0.1:0", tls=server_tls)
    client = LinkClient(WORKER, SECRET, client_tls, pace=QUICK)
    client.update([presence(await server.start())])
    await wait_until(client.unreachable)
    words = {"worker without": "TLS", "worker that trusts another": "certificate verify failed"}
    assert words.get(which, "") in client.troubles()[GATEWAY]
    assert server.workers == ()
    await client.close()
    await server.stop()


async def test_tls_without_a_certificate_refuses_the_start(tmp_path):
    with pytest.raises(ValueError, match="FOREMAN_LINK_CERT"):
        await LinkServer(FakeDoor(), GATEWAY, SECRET, "127.0.0.1:0", tls=LinkTLS()).start()
    with pytest.raises(LinkSetupError, match=r"FOREMAN_LINK_CA is .*none'"):
        LinkClient(WORKER, SECRET, LinkTLS(ca=tmp_path / "none"))
    (tmp_path / "bad.pem").write_text("no certificate")
    with pytest.raises(LinkSetupError, match=r"FOREMAN_LINK_CERT is .*bad.pem'"):
        LinkTLS(cert=tmp_path / "bad.pem").server()
