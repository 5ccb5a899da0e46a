"""Logs: lines or JSON, and what never gets into them."""

from __future__ import annotations

import asyncio
import io
import json
import logging

import pytest
import structlog

from foreman import logs
from foreman.tasks import Tasks


@pytest.fixture
def out():
    yield io.StringIO()
    structlog.reset_defaults()
    logging.getLogger().handlers.clear()


def test_json_is_an_object_a_line_with_event_level_and_time(out: io.StringIO):
    logs.configure("json", out)
    structlog.get_logger("x").bind(job_id="01J").info("job.done", tokens=3)
    logging.getLogger("aiohttp").warning("odd %s", "thing")
    logging.getLogger("aiohttp").info("not heard")
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert (first["event"], first["level"], first["job_id"], first["tokens"]) == ("job.done", "info", "01J", 3)
    assert first["timestamp"].endswith("Z")
    assert (second["event"], second["level"]) == ("odd thing", "warning")


def test_console_is_the_default_on_a_terminal_only(out: io.StringIO, monkeypatch: pytest.MonkeyPatch):
    logs.configure(None, out)
    structlog.get_logger("x").info("job.done")
    assert out.getvalue().startswith("{")
    out.truncate(0)
    monkeypatch.setattr(out, "isatty", lambda: True)
    logs.configure(None, out)
    structlog.get_logger("x").info("job.done")
    assert "{" not in out.getvalue()
    assert "job.done" in out.getvalue()


@pytest.mark.parametrize("kind", ["json", "console"])
def test_private_values_are_blanked(kind: str, out: io.StringIO):
    logs.configure(kind, out)
    structlog.get_logger("x").info(
        "job.done", prompt="s3cret", token="s3cret", authorization="s3cret", messages=["s3cret"]
    )
    assert "s3cret" not in out.getvalue()
    assert out.getvalue().count("[hidden]") == 4


@pytest.mark.parametrize("kind", ["json", "console"])
def test_no_name_that_a_caller_chose_steers_a_terminal(kind: str, out: io.StringIO):
    logs.configure(kind, out)
    structlog.get_logger("x").info("job.submitted", lane="\x1b]0;mine\x07", model="\x9b2J")
    logging.getLogger("aiohttp").warning("odd \x1b[31m")
    assert not set("\x1b\x07\x9b") & set(out.getvalue()) or kind == "json"
    assert "\x1b" not in out.getvalue()
    assert "]0;mine" in out.getvalue()


@pytest.mark.parametrize("kind", ["json", "console"])
async def test_a_traceback_shows_no_local_variables(kind: str, out: io.StringIO):
    logs.configure(kind, out)

    async def child() -> None:
        prompt = "s3cret"
        raise LookupError(len(prompt))

    tasks = Tasks("owner")
    await asyncio.wait([tasks.spawn(child(), "child")])
    await asyncio.sleep(0)  # its done-callback logs
    assert "task.died" in out.getvalue()
    assert "LookupError" in out.getvalue()
    assert "Traceback" in out.getvalue()
    assert "s3cret" not in out.getvalue().replace('prompt = "s3cret"', "")


async def test_an_error_that_carries_what_it_could_not_read_is_logged_without_it(out: io.StringIO):
    logs.configure("json", out)

    async def child() -> None:
        b"s3cret \xff".decode()

    tasks = Tasks("owner")
    await asyncio.wait([tasks.spawn(child(), "child")])
    await asyncio.sleep(0)
    assert "UnicodeDecodeError" in out.getvalue()
    assert "s3cret" not in out.getvalue().replace('b\\"s3cret', "")
