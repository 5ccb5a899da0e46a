"""What a model server says of itself, asked of the fake and of servers that say nonsense."""

import json

import pytest

from foreman.demo.ollama import FakeOllama
from foreman.upstream.client import Client
from foreman.upstream.faults import Fault, Kind
from foreman.upstream.probe import loaded, probe
from tests.upstream.test_client import server


async def test_an_ollama_tells_its_version_its_models_and_what_it_holds():
    async with FakeOllama(["a", "b"], version="0.24.0") as fake:
        client = Client(fake.url)
        await client.fetch("POST", "/api/generate", b'{"model":"a"}', timeout=10)
        found = await probe(client, "ollama")
        assert await loaded(client) == found.ps
    assert found.version == "0.24.0"
    assert {entry["name"] for entry in found.tags} == {"a:latest", "b:latest"}
    assert [entry["name"] for entry in found.ps] == ["a:latest"]
    assert found.ps[0]["digest"] == next(entry["digest"] for entry in found.tags if entry["name"] == "a:latest")


async def test_a_v1_server_lists_its_models_without_digests():
    async with FakeOllama(["a"], kind="openai") as fake:
        found = await probe(Client(fake.url), "openai")
    assert (found.version, found.ps) == (None, ())
    assert [(entry["name"], entry["digest"]) for entry in found.tags] == [("a:latest", "")]
    assert found.tags[0]["modified_at"].endswith("Z")


async def test_nobody_there_is_down_and_a_missing_token_says_what_to_do(unused_port):
    with pytest.raises(Fault) as caught:
        await probe(Client(f"http://127.0.0.1:{unused_port}"), "ollama")
    assert caught.value.kind is Kind.REFUSED
    async with FakeOllama(["a"], token="secret") as fake:
        with pytest.raises(Fault, match="401: give the target its token"):
            await probe(Client(fake.url), "ollama")
        assert (await probe(Client(fake.url, "secret"), "ollama")).tags


def answers(status: int, body: bytes):
    async def script(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)
        await writer.drain()

    return script


@pytest.mark.parametrize("kind", ["ollama", "openai"])
@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"no json"), (200, b'{"models": 5, "data": 5}'), (500, b"{}"), (200, b'{"models": {"a": 1}, "data": "x"}')],
)
async def test_nonsense_is_a_fault(kind, status, body):
    async with server(answers(status, body)) as url:
        with pytest.raises(Fault) as caught:
            await probe(Client(url), kind)
    assert caught.value.kind is Kind.GARBAGE


async def test_what_has_no_name_is_left_out_and_null_is_an_empty_list():
    body = {"data": [{"id": "x", "created": "yesterday"}, {"id": 5}, "y", None], "object": "list"}
    async with server(answers(200, json.dumps(body).encode())) as url:
        found = await probe(Client(url), "openai")
    assert [entry["name"] for entry in found.tags] == ["x"]
    async with server(answers(200, b'{"object":"list","data":null}')) as url:
        assert (await probe(Client(url), "openai")).tags == ()


async def test_a_v1_server_without_a_list_is_up_with_nothing_known():
    async with server(answers(404, b"404 page not found")) as url:
        assert (await probe(Client(url), "openai")).tags == ()
