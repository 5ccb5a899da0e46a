"""What `foreman doctor` looks at: settings, the gateway beside it, the store, the links, the targets.

The doctor calls me; each look returns findings, a sentence each with what to do, and never raises for what it finds.
I change nothing: a running foreman does not notice me.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import aiohttp

from foreman.client.gateways import reason
from foreman.core.units import address, is_loopback
from foreman.settings import SettingsError
from foreman.store.client import connect
from foreman.store.embedded import find_binary
from foreman.store.errors import StoreRefusedError, StoreUnavailableError
from foreman.upstream.client import Client
from foreman.upstream.faults import Fault, Kind
from foreman.upstream.probe import Inventory, probe

if TYPE_CHECKING:
    from foreman.settings import Settings, TargetSettings

LATE: Final = 0.25
"""Seconds of the store's answer from which on it is worth a word."""
_PATIENCE: Final = aiohttp.ClientTimeout(total=5)
HOST_ALIAS: Final = "host.docker.internal"


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing the doctor saw."""

    level: Level
    subject: str
    """`settings`, `webhooks`, `gateway`, `store`, `links`, or `target NAME`."""
    message: str
    advice: str = ""
    """What to do about it; empty when it is well."""


def in_container(root: Path = Path("/")) -> bool:
    """Whether this process runs in a container (Docker, Podman or Kubernetes leave these signs)."""
    signs = (root / ".dockerenv", root / "run" / ".containerenv")
    return any(sign.exists() for sign in signs) or "KUBERNETES_SERVICE_HOST" in os.environ


async def examine(settings: Settings, *, container: bool) -> list[Finding]:
    """All findings, in the order of the road: settings, gateway, store, links, targets.

    Where no setting names a target (`foreman run`, the demo, a gateway elsewhere), those that the gateway tells of are meant.
    """
    gateway, state = await _gateway(settings)
    named = settings.targets_source != "ollama_url" or "ollama_url" in settings.model_fields_set
    ask = settings.target_list if named or not state.get("targets") else ()
    async with asyncio.TaskGroup() as group:
        store = group.create_task(_store(settings, running=bool(state)))
        asked = [group.create_task(_target(target, container=container)) for target in ask]
    targets = [one.result() for one in asked] if ask else [_told(target) for target in state.get("targets", ())]
    return [*_settings(settings), *gateway, *store.result(), *_links(settings), *targets]


def _settings(settings: Settings) -> list[Finding]:
    """What two settings say together that is allowed and yet unwise, and what would refuse the start."""
    found = []
    try:
        settings.check_exposed()
    except SettingsError as error:
        sentence, _, advice = str(error).partition(": ")
        found.append(Finding(Level.PROBLEM, "settings", sentence, advice))
    if settings.insecure and not settings.loopback and not settings.guarded:
        found.append(
            Finding(
                Level.WARNING,
                "settings",
                f"FOREMAN_INSECURE is true and FOREMAN_ADDR is {settings.addr!r}: whoever reaches that port may use it",
                "set FOREMAN_TOKEN, unless the network itself keeps strangers out",
            )
        )
    if settings.targets_source != "ollama_url" and "ollama_url" in settings.model_fields_set:
        name = settings.targets_source.upper()
        found.append(
            Finding(
                Level.WARNING,
                "settings",
                f"FOREMAN_OLLAMA_URL is not looked at, because FOREMAN_{name} is set",
                "unset one of the two",
            )
        )
    if settings.webhook_allow and not settings.webhook_secret:
        found.append(
            Finding(
                Level.WARNING,
                "webhooks",
                "FOREMAN_WEBHOOK_ALLOW is set and FOREMAN_WEBHOOK_SECRET is not: receivers can't tell foreman's events from others'",
                "set FOREMAN_WEBHOOK_SECRET to whsec_ and the output of `openssl rand -base64 32`",
            )
        )
    return found or [Finding(Level.OK, "settings", "they go together")]


def _links(settings: Settings) -> list[Finding]:
    """Links that leave this machine in the clear, or lead nowhere."""
    host = address(settings.link_bind)[0]
    found = []
    if address(settings.link_announce)[0] in {"", "0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        found.append(
            Finding(
                Level.WARNING,
                "links",
                f"FOREMAN_LINK_ADDR is {settings.link_addr!r}: it announces no host that a worker elsewhere could dial",
                "add what workers reach behind a comma, such as 0.0.0.0:7480,gateway.lan:7480",
            )
        )
    if is_loopback(host) or settings.link_cert is not None:
        return found
    return [
        *found,
        Finding(
            Level.WARNING,
            "links",
            f"FOREMAN_LINK_ADDR is {settings.link_addr!r} and there is no TLS: answers travel in the clear to workers elsewhere",
            "set FOREMAN_LINK_CERT, FOREMAN_LINK_KEY and FOREMAN_LINK_CA, unless the network is private (as compose's is)",
        ),
    ]


async def _gateway(settings: Settings) -> tuple[list[Finding], dict[str, Any]]:
    """A running gateway's own view of its health, and of its pool (`/ops/state`; empty where it says nothing)."""
    url = settings.gateway_url
    headers = {"Authorization": f"Bearer {settings.token}"} if settings.token else {}
    try:
        async with aiohttp.ClientSession(timeout=_PATIENCE, headers=headers) as session:
            health = await _json(session, f"{url}/healthz")
            state = await _json(session, f"{url}/ops/state")
    except (aiohttp.ClientError, TimeoutError) as error:
        sentence = f"no foreman answers at {url} ({reason(error)})"
        return [Finding(Level.WARNING, "gateway", sentence, "start one: foreman serve")], {}
    if "degraded" not in health:
        other = f"what answers at {url} is no foreman"
        advised = "set FOREMAN_URL to the gateway's, or free that port for it"
        return [Finding(Level.PROBLEM, "gateway", other, advised)], {}
    if isinstance(refused := state.get("error"), dict):
        why = f"{url} does not let us look: {refused.get('message')}"
        return [Finding(Level.PROBLEM, "gateway", why, "set FOREMAN_TOKEN to one that it knows")], {}
    reasons = health.get("reasons") or ([] if not health.get("degraded") else ["it calls itself degraded"])
    found = [Finding(Level.WARNING, "gateway", _reason(told), "see below, and /ops/state") for told in reasons]
    found = found or [Finding(Level.OK, "gateway", f"{url} answers and is well")]
    return [*found, *_unlinked(state), *_room(state)], state


async def _json(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    """A JSON object, whatever the status; {} where another kind of answer came."""
    async with session.get(url) as reply:
        try:
            body = await reply.json(content_type=None)
        except ValueError:
            return {}
        return body if isinstance(body, dict) else {}


def _reason(reason: object) -> str:
    """A reason of `/healthz` as a sentence."""
    return str(reason.get("message", reason)) if isinstance(reason, dict) else str(reason)


def _unlinked(state: dict[str, Any]) -> list[Finding]:
    """Workers and gateways that can't talk, from `/ops/state`."""
    return [
        Finding(
            Level.PROBLEM,
            "links",
            f"worker {worker.get('id')} has no link to gateway {gateway}",
            "let FOREMAN_LINK_ADDR of that gateway announce a host and a port that this worker reaches",
        )
        for worker in state.get("workers") or ()
        for gateway in worker.get("unreachable") or ()
    ]


def _room(state: dict[str, Any]) -> list[Finding]:
    """How full the store is, from `/ops/state`."""
    store = state.get("store") or {}
    used, limit = store.get("used_bytes"), store.get("limit_bytes")
    if not isinstance(used, int) or not isinstance(limit, int):
        return []
    holds = f"it holds {used / 2**20:,.1f} of {limit / 2**20:,.0f} MiB (FOREMAN_STORE_BYTES)"
    if used < 0.9 * limit:
        return [Finding(Level.OK, "store", holds)]
    return [
        Finding(
            Level.WARNING,
            "store",
            f"{holds}: the jobs that ended longest ago lose their requests and answers, and then new ones are refused",
            "raise FOREMAN_STORE_BYTES, or shorten FOREMAN_JOB_TTL",
        )
    ]


async def _store(settings: Settings, *, running: bool) -> list[Finding]:
    """The store: can it be had, and is it one that loses nothing? A running foreman's folder may be another, or closed to us."""
    if settings.redis_url is None:
        try:
            binary = await asyncio.to_thread(find_binary)
        except StoreRefusedError as error:
            return [Finding(Level.PROBLEM, "store", str(error), "or set FOREMAN_REDIS_URL")]
        if running:
            return [Finding(Level.OK, "store", f"the embedded one ({binary})")]
        if not _can_hold(settings.data_dir):
            sentence = f"the data directory {settings.data_dir} can't be made or written to by this user"
            return [Finding(Level.PROBLEM, "store", sentence, "set FOREMAN_DATA_DIR to a folder of yours")]
        return [Finding(Level.OK, "store", f"the embedded one ({binary}), its data in {settings.data_dir}")]
    try:
        store = await connect(settings, settings.redis_url, wait=2.0)
    except ValueError:  # its message shows the URL, and that may hold a password
        return [
            Finding(Level.PROBLEM, "store", "FOREMAN_REDIS_URL is no store URL", "use one such as redis://host:6379/0")
        ]
    except StoreUnavailableError as error:
        return [Finding(Level.PROBLEM, "store", str(error), "start it, or correct FOREMAN_REDIS_URL")]
    except StoreRefusedError as error:
        return [Finding(Level.PROBLEM, "store", str(error), "use another server")]
    try:
        latency = min([await store.queue.ping() for _ in range(3)])
    except StoreUnavailableError as error:
        return [Finding(Level.PROBLEM, "store", str(error), "start it, or correct FOREMAN_REDIS_URL")]
    finally:
        await store.close()
    found = [Finding(Level.WARNING, "store", finding.message, "see the sentence") for finding in store.findings]
    if latency > LATE:
        late = f"it answers in {latency * 1000:.0f} ms, and a job asks it some ten times, one after another"
        found.append(Finding(Level.WARNING, "store", late, "see what keeps it busy, its disk, and the network to it"))
    return found or [Finding(Level.OK, "store", f"it answers in {latency * 1000:.1f} ms")]


def _can_hold(folder: Path) -> bool:
    """Whether files can be put into a folder, which may have to be made first."""
    folder = folder.expanduser().absolute()
    there = next(path for path in (folder, *folder.parents) if os.path.exists(path))  # noqa: PTH110 - Path.exists raises where a parent is closed to us
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _told(target: dict[str, Any]) -> Finding:
    """A target that only the gateway knows of, as `/ops/state` has it."""
    subject, told = f"target {target.get('name')}", f"{target.get('url')} is {target.get('state')}, as the gateway says"
    if target.get("state") != "down":
        return Finding(Level.OK, subject, told)
    return Finding(
        Level.PROBLEM, subject, f"{told}: {target.get('error')}", "start it, or look from its worker's machine"
    )


async def _target(target: TargetSettings, *, container: bool) -> Finding:
    """Whether a target answers, and has a model."""
    subject = f"target {target.name}"
    client = Client(target.url, target.token)
    try:
        inventory = await probe(client, target.kind)
    except Fault as fault:
        return Finding(Level.PROBLEM, subject, fault.message, advice(target, fault.kind, container=container))
    finally:
        await client.close()
    return _inventory(target, subject, inventory)


def _inventory(target: TargetSettings, subject: str, inventory: Inventory) -> Finding:
    version = f" {inventory.version}" if inventory.version else ""
    if not inventory.tags:
        way = "ollama pull llama3.2" if target.kind == "ollama" else "load one there"
        return Finding(Level.WARNING, subject, f"{target.url} answers and has no model", f"get one: {way}")
    return Finding(Level.OK, subject, f"{target.kind}{version} at {target.url}, {len(inventory.tags)} models")


def advice(target: TargetSettings, kind: Kind, *, container: bool) -> str:
    """What to do about a target that gave no sound answer.

    An Ollama listens on 127.0.0.1 unless told otherwise: from a container, or from another machine, the same server
    that answers on its own host refuses every connection.
    """
    if kind is not Kind.REFUSED:
        return f"see that {target.url} is a server of kind {target.kind}, and that nothing in between answers for it"
    host = urlsplit(target.url).hostname or ""
    port = urlsplit(target.url).port or (443 if target.url.startswith("https") else 80)
    if is_loopback(host):
        if container:
            return (
                f"inside a container {host} is the container itself: start it there, or for a server on the host write "
                f"http://{HOST_ALIAS}:{port} (Linux: with --add-host={HOST_ALIAS}:host-gateway)"
            )
        return "start it there: ollama serve" if target.kind == "ollama" else "start it"
    if target.kind != "ollama":
        return f"see that it runs and listens on an address that this machine reaches, not on 127.0.0.1:{port} only"
    whose = "the host" if container else host
    return (
        f"an Ollama listens on 127.0.0.1 only unless told otherwise: on {whose} set OLLAMA_HOST=0.0.0.0:{port} for it "
        '(systemd: `systemctl edit ollama`, Environment="OLLAMA_HOST=0.0.0.0"), restart it, and let its firewall pass that port'
    )
