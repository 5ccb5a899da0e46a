"""/_fake/*: what a test does to a fake Ollama in another process.

`GET /_fake/state` counts, `POST /_fake/pace`, `/_fake/faults`, `/_fake/gates`, `/_fake/gates/release`, `/_fake/clear`.
Bodies are JSON with the fields of Pace, Fault and Gate. Requests to me are neither recorded nor counted.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from foreman.protocols.gojson import dumps

from .asks import RefusalError
from .dialects import JSON_UTF8

if TYPE_CHECKING:
    from aiohttp import web

    from .ollama import FakeOllama
    from .server import Call, Handler


def control_routes(fake: FakeOllama) -> dict[str, dict[str, Handler]]:
    """The table of /_fake."""

    async def state(call: Call) -> web.StreamResponse:
        return await _tell(call, _state(fake))

    async def pace(call: Call) -> web.StreamResponse:
        for name, value in _body(call).items():
            setattr(fake.pace, name, value)
        return await _tell(call, asdict(fake.pace))

    async def faults(call: Call) -> web.StreamResponse:
        fake.fault(**_body(call))
        return await _tell(call, {"faults": len(fake.plan.faults)})

    async def gates(call: Call) -> web.StreamResponse:
        fake.gate(**_body(call))
        return await _tell(call, {"gates": len(fake.plan.gates)})

    async def release(call: Call) -> web.StreamResponse:
        for gate in fake.plan.all_gates:
            await gate.release(_body(call).get("lines"))
        return await _tell(call, {})

    async def clear(call: Call) -> web.StreamResponse:
        fake.clear()
        return await _tell(call, {})

    posts = {"pace": pace, "faults": faults, "gates": gates, "gates/release": release, "clear": clear}
    table: dict[str, dict[str, Handler]] = {f"/_fake/{name}": {"POST": handler} for name, handler in posts.items()}
    return table | {"/_fake/state": {"GET": state}}


def _state(fake: FakeOllama) -> dict[str, Any]:
    ledger = fake.ledger
    return {
        "requests": ledger.request_count,
        "loads": [{"at": load.at, "model": load.model, "options": load.options} for load in ledger.loads],
        "load_count": ledger.load_count,
        "loads_stopped": ledger.loads_stopped,
        "tokens": ledger.tokens,
        "cancels": ledger.cancels,
        "connections": fake.connections,
        "answering": fake.answering,
        "residents": fake.residents,
        "standing": sum(gate.standing for gate in fake.plan.all_gates),
        "seen": [
            {
                "method": seen.method,
                "path": seen.path,
                "model": seen.model,
                "phase": seen.phase,
                "status": seen.status,
                "lines": seen.lines,
            }
            for seen in ledger.requests
        ],
    }


def _body(call: Call) -> dict[str, Any]:
    try:
        value = json.loads(call.body or b"{}")
    except ValueError as error:
        raise RefusalError(400, str(error)) from None
    return dict(value)


async def _tell(call: Call, value: dict[str, Any]) -> web.StreamResponse:
    return await call.reply.whole(200, JSON_UTF8, dumps(value))
