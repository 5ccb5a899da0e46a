"""Each test of this folder runs on asyncio and on uvloop: their transports differ in what they allow."""

import socket

import pytest

from tests import loops


def pytest_asyncio_loop_factories(config, item):
    return loops.both(item)


def pytest_collection_modifyitems(items):
    loops.spare_uvloop(items, __file__)


@pytest.fixture
def unused_port():
    """A port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
