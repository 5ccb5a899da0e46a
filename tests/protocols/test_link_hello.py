"""The hello: two ends that share a secret find each other, all others don't."""

from __future__ import annotations

import itertools
import json

import pytest

from foreman.protocols.link import Decoder, Kind, frame
from foreman.protocols.link_hello import HELLO_LIMIT, GatewayHello, HelloError, WorkerHello, reject

SECRET = b"correct horse"


def worker(secret=SECRET, gateway="gw-1", nonce=b"w" * 32):
    return WorkerHello(secret, "wk-1", gateway, nonce)


def gateway(secret=SECRET, nonce=b"g" * 32):
    return GatewayHello(secret, "gw-1", nonce)


def one(data):
    [(kind, job, payload)] = Decoder(HELLO_LIMIT).feed(data)
    assert job == 0
    return kind, payload


def meet(w, g):
    """Both ends by hand; the frames in order."""
    said = [w.open()]
    for end in itertools.cycle([g, w]):
        answer = end.step(*one(said[-1]))
        if not answer:
            return said
        said.append(answer)
    raise AssertionError


def test_two_ends_with_the_secret_meet_in_four_frames():
    w, g = worker(), gateway()
    said = meet(w, g)
    assert [one(data)[0] for data in said] == [Kind.HELLO, Kind.CHALLENGE, Kind.PROOF, Kind.WELCOME]
    assert w.done
    assert g.done
    assert (g.worker, g.version, w.version) == ("wk-1", 1, 1)
    assert not any(SECRET in data for data in said)


def test_the_worker_proves_first_and_the_gateway_proves_nothing_to_a_stranger():
    w, g = worker(secret=b"guess"), gateway()
    proof = w.step(*one(g.step(*one(w.open()))))
    with pytest.raises(HelloError, match="FOREMAN_LINK_SECRET") as refusal:
        g.step(*one(proof))
    assert refusal.value.reason == "secret"
    assert not g.done


def test_a_gateway_without_the_secret_is_refused():
    w, g = worker(), gateway(secret=b"other")
    g._secret = b"other"
    w.step(*one(g.step(*one(w.open()))))
    for forged in (b"", b"\0" * 32):
        with pytest.raises(HelloError) as refusal:
            w.step(Kind.WELCOME, forged)
        assert refusal.value.reason == "secret"
    assert not w.done


def test_a_hello_replayed_proves_nothing():
    heard = meet(worker(), gateway())
    later = gateway(nonce=b"h" * 32)
    later.step(*one(heard[0]))
    with pytest.raises(HelloError, match="secret"):
        later.step(*one(heard[2]))


def test_an_answer_replayed_to_the_worker_proves_nothing():
    heard = meet(worker(), gateway())
    later = worker(nonce=b"x" * 32)
    later.open()
    later.step(*one(heard[1]))
    with pytest.raises(HelloError, match="secret"):
        later.step(*one(heard[3]))


def test_a_proof_reflected_proves_nothing():
    w, g = worker(), gateway()
    proof = one(w.step(*one(g.step(*one(w.open())))))[1]
    with pytest.raises(HelloError, match="secret"):
        w.step(Kind.WELCOME, proof)


def test_a_tampered_version_breaks_the_proof():
    w, g = worker(), gateway()
    hello = one(w.open())[1].replace(b'"versions":[1,1]', b'"versions":[0,1]')
    proof = one(w.step(*one(g.step(Kind.HELLO, hello))))[1]
    with pytest.raises(HelloError, match="secret"):
        g.step(Kind.PROOF, proof)


@pytest.mark.parametrize("versions", [[2, 9], [0, 0]])
def test_versions_that_do_not_meet_are_refused_in_words(versions):
    hello = json.loads(one(worker().open())[1]) | {"versions": versions}
    with pytest.raises(HelloError, match="update one") as refusal:
        gateway().step(Kind.HELLO, json.dumps(hello).encode())
    assert refusal.value.reason == "version"
    with pytest.raises(HelloError, match="update one"):
        worker().step(*one(reject(refusal.value)))


def test_a_newer_worker_that_speaks_our_version_too_is_welcome():
    hello = json.loads(one(worker().open())[1]) | {"versions": [1, 7], "new": {"key": 1}}
    g = gateway()
    g.step(Kind.HELLO, json.dumps(hello).encode())
    assert g.version == 1


def test_a_version_the_worker_did_not_offer_is_refused():
    w = worker()
    challenge = {"version": 2, "gateway": "gw-1", "nonce": "00" * 32}
    with pytest.raises(HelloError, match="version"):
        w.step(Kind.CHALLENGE, json.dumps(challenge).encode())


def test_another_gateway_at_the_address_is_refused_by_both():
    with pytest.raises(HelloError) as refusal:
        gateway().step(*one(worker(gateway="gw-old").open()))
    assert refusal.value.reason == "gateway"
    challenge = gateway().step(*one(worker().open()))
    with pytest.raises(HelloError) as refusal:
        worker(gateway="gw-old").step(*one(challenge))
    assert refusal.value.reason == "gateway"


GARBAGE = [
    (Kind.HELLO, b""),
    (Kind.HELLO, b"[]"),
    (Kind.HELLO, b"{}"),
    (Kind.HELLO, b"\xff"),
    (Kind.HELLO, b"[" * 2000),
    (Kind.HELLO, b'{"versions":[1,1],"worker":"wk","gateway":"gw-1","nonce":"00"}'),
    (Kind.HELLO, b'{"versions":[1],"worker":"wk","gateway":"gw-1","nonce":"%b"}' % (b"0" * 64)),
    (Kind.HELLO, b'{"versions":[1,1],"worker":7,"gateway":"gw-1","nonce":"%b"}' % (b"0" * 64)),
    (Kind.PROOF, b"\0" * 32),
    (Kind.WELCOME, b""),
    (Kind.DATA, b"unit"),
    (Kind.STARTED, b"\0" * 8 + b"job"),
    (Kind.BROKEN, b""),
    (99, b""),
]


@pytest.mark.parametrize(("kind", "payload"), GARBAGE)
def test_garbage_is_refused_by_the_gateway(kind, payload):
    g = gateway()
    with pytest.raises(HelloError):
        g.step(kind, payload)
    assert not g.done


@pytest.mark.parametrize(("kind", "payload"), [*GARBAGE, (Kind.CHALLENGE, b"{}"), (Kind.REJECT, b"?")])
def test_garbage_is_refused_by_the_worker(kind, payload):
    w = worker()
    w.open()
    with pytest.raises(HelloError):
        w.step(kind, payload)
    assert not w.done


def test_no_frame_of_the_hello_may_come_twice():
    w, g = worker(), gateway()
    hello = one(w.open())
    challenge = one(g.step(*hello))
    with pytest.raises(HelloError):
        g.step(*hello)
    proof = one(w.step(*challenge))
    with pytest.raises(HelloError):
        w.step(*challenge)
    g.step(*proof)
    with pytest.raises(HelloError):
        g.step(*proof)


def test_a_hello_past_its_limit_is_garbage():
    [(kind, _, payload)] = Decoder(HELLO_LIMIT).feed(frame(Kind.HELLO, 0, b"x" * (HELLO_LIMIT + 1)))
    assert kind == Kind.BROKEN
    with pytest.raises(HelloError, match="no link speaks like this"):
        gateway().step(kind, payload)
