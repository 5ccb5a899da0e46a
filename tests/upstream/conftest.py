"""Each test of this folder runs on asyncio and on uvloop: their transports differ in what they allow."""

import asyncio
import socket
from pathlib import Path

import pytest
import uvloop


def pytest_asyncio_loop_factories(config, item):
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def pytest_collection_modifyitems(items):
    # uvloop warns from inside a handle's close; raised as an error there, the loop never ends. On asyncio the same leak
    # is still an error.
    here = str(Path(__file__).parent)
    for item in items:
        if str(item.path).startswith(here) and "uvloop" in item.name:
            item.add_marker(pytest.mark.filterwarnings("default::ResourceWarning"))


@pytest.fixture
def unused_port():
    """A port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
