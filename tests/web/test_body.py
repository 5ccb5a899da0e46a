"""A large body is looked at in a thread: no other caller's token waits for it."""

from __future__ import annotations

import hashlib
import threading

import pytest

from foreman.protocols.gojson import LARGE
from foreman.tasks import aside
from foreman.web.calls import intake
from foreman.web.jobs import submission


async def test_work_on_a_large_body_is_a_threads() -> None:
    here = threading.get_ident()
    assert await aside(LARGE, threading.get_ident) == here
    assert await aside(LARGE + 1, threading.get_ident) != here


@pytest.mark.parametrize("path", ["/api/chat", "/jobs"])
async def test_nobody_reads_a_large_body_on_the_loop(gateway, dial, monkeypatch, path):
    where = []
    for module, name in ((intake, "peek"), (submission, "_peeked"), (submission, "_taken"), (hashlib, "sha256")):
        known = getattr(module, name)

        def watched(*args: object, known=known, **how: object) -> object:
            if any(isinstance(arg, bytes) and len(arg) > LARGE for arg in args):
                where.append(threading.get_ident())
            return known(*args, **how)

        monkeypatch.setattr(module, name, watched)
    caller = await dial(gateway)
    body = b'{"model":"nobody","messages":[{"role":"user","content":"%b"}]}' % (b"x" * LARGE)
    reply = await caller.post(path, body, Idempotency_Key="large")
    assert reply.status == 404
    assert where
    assert threading.get_ident() not in where
