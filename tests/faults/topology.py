"""The pool under fire: two gateways, three workers, two background processes, one Valkey, two targets, all processes.

    async with Topology(folder, old=…) as pool: pool.seats["w1"] …, pool.wires["w1-store"] …, pool.look (redis client)

Each pair talks through a wire of its own; links go over TCP with TLS and the pool's secret. I start, stop and name
processes and know which life of which seat a worker's or gateway's id belongs to; what is done to them is the injectors'.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from redis.asyncio import Redis
from redis.exceptions import RedisError

from foreman.store.embedded import find_binary
from tests.faults.wires import Wire
from tests.rig import ROOT, free_port

if TYPE_CHECKING:
    from pathlib import Path

POOL: Final = "faults"
MODELS: Final = ("alpha", "beta")
ANVIL: Final = "anvil-{target}"
"""A model that one target alone has: what the injectors put under the hammer."""
WORKER_GRACE: Final = 0.5
GATEWAY_GRACE: Final = 5.0
"""Seconds."""
RESTART: Final = 0.2
AWAY: Final = (RedisError, OSError, AttributeError)
"""What redis-py says when the store goes; the last where it goes between two steps of one command of ours."""
UP: Final = b"house.started"
NAMES: Final = (b'"worker.started"', b'"worker.reenrolled"', b'"gateway.listening"')
"""Events of the log that tell a name."""
READY: Final = b"READY"
"""What a process says once it listens: foreman, a target."""
SCHEDULE: Final = "0s,300ms,600ms,1s,2s,3s,4s,5s,5s,5s,5s"
CLOCK: Final = """
import pathlib, time
_file, _true, _true_ns = pathlib.Path(__file__).with_name("offset"), time.time, time.time_ns
_seen = [0.0, 0.0]
def _offset():
    now = time.monotonic()
    if now - _seen[0] > 0.05:
        try:
            _seen[:] = [now, float(_file.read_text() or 0)]
        except (OSError, ValueError):
            pass
    return _seen[1]
time.time = lambda: _true() + _offset()
time.time_ns = lambda: _true_ns() + int(_offset() * 1e9)
"""
"""Python asks for the time through these two; what C code asks the kernel for (logs, TLS) stays true."""


@dataclass(eq=False)
class Life:
    """One process in a seat, from its start to its end. Times are seconds since 1970."""

    seat: str
    number: int
    process: asyncio.subprocess.Process
    log: Path
    began: float
    old: bool = False
    """Runs the older version."""
    ended: float | None = None
    """When it was killed, or ended by itself."""
    gone: float | None = None
    """When nothing took connections for it any more: a busy machine buries the dead late."""
    how: str = ""
    """The signal that ended it."""
    told: float | None = None
    """When it got its SIGTERM."""
    stops: list[tuple[float, float]] = field(default_factory=list)
    """From when to when it was frozen."""

    up: bool = False
    """It has said that it is."""
    _ids: list[str] = field(default_factory=list)
    _read: int = 0
    _rest: bytes = b""

    def look(self) -> None:
        """Read what it has written since the last look: looks are many, and logs grow."""
        with contextlib.suppress(OSError), self.log.open("rb") as log:
            log.seek(self._read)
            new = log.read()
            self._read += len(new)
            *lines, self._rest = (self._rest + new).split(b"\n")
            for line in lines:
                self.up = self.up or (READY if self.seat.startswith("gpu") else UP) in line
                if any(event in line for event in NAMES):
                    with contextlib.suppress(ValueError):
                        told = json.loads(line)
                        self._ids += [
                            str(told[key]) for key in ("worker" if self.seat[0] == "w" else "gateway",) if key in told
                        ]

    def ids(self) -> list[str]:
        """The names under which it was known to the store, in order."""
        self.look()
        return self._ids


@dataclass(eq=False)
class Seat:
    """A place for one process, held by one life after the other."""

    name: str
    args: tuple[str, ...]
    env: dict[str, str]
    old: bool = False
    """The next life runs the older version, where there is one."""
    closed: bool = False
    """No next life."""
    lives: list[Life] = field(default_factory=list)
    hands: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whoever does something to it."""

    @property
    def life(self) -> Life | None:
        """The one that holds it now."""
        return self.lives[-1] if self.lives and self.lives[-1].ended is None else None


class Topology:
    """All of it. Enter it to have everything started but the store, which `store_up` starts."""

    def __init__(
        self,
        folder: Path,
        old: Path | None,
        *,
        worker_grace: float = WORKER_GRACE,
        gateway_grace: float = GATEWAY_GRACE,
    ) -> None:
        self.folder = folder
        self.graces = worker_grace, gateway_grace
        self.old = old
        """The tree of an older version, or None."""
        self.seats: dict[str, Seat] = {}
        self.wires: dict[str, Wire] = {}
        self.store_lives: list[tuple[float, float]] = []
        """Times without a store: from, to."""
        self.strays: list[str] = []
        """Processes that ended although nobody told them to."""
        self.refusals: list[tuple[float, str]] = []
        """When a process refused to start, and its words."""
        self.fakes: dict[str, str] = {}
        """Target → its URL, past its wire."""
        self._store: subprocess.Popen[bytes] | None = None
        self._store_port = free_port()
        self.look: Redis = Redis(
            port=self._store_port, decode_responses=True, encoding_errors="replace", socket_timeout=5
        )
        """Our own line to the store, past all wires."""
        self.key = f"foreman:{POOL}:"

    # ------------------------------------------------------------------ life

    async def __aenter__(self) -> Self:
        self._certificate()
        hooks = await self._wire("receivers", ("127.0.0.1", 9))  # its address comes with `receivers`
        assert hooks.port
        for target in ("gpu1", "gpu2"):
            port = free_port()
            self.seats[target] = Seat(target, self._fake(target, port), {})
            self.fakes[target] = f"http://127.0.0.1:{port}"
            await self._wire(target, ("127.0.0.1", port), there=False)
        for name in ("g1", "g2"):
            await self._gateway(name)
        for name, targets in (("w1", ("gpu1",)), ("w2", ("gpu2",)), ("w3", ("gpu1", "gpu2"))):
            listed = ",".join(f"{one}=http://127.0.0.1:{self.wires[one].port}?slots=3&resident=2" for one in targets)
            env = {"FOREMAN_TARGETS": listed, "FOREMAN_LINK_CA": str(self.folder / "link.pem")}
            env |= {"FOREMAN_SHUTDOWN_GRACE": f"{self.graces[0]}s", "FOREMAN_POLL_INTERVAL": "2s"}
            env |= {"FOREMAN_UPSTREAM_TIMEOUT": "4s"}  # longer than any hole in a target's cable
            await self._seat(name, "worker", env)
        for name in ("b1", "b2"):
            env = {"FOREMAN_WEBHOOK_SECRET": "the secret", "FOREMAN_WEBHOOK_ALLOW": "127.0.0.1"}
            await self._seat(name, "background", env | {"FOREMAN_WEBHOOK_SCHEDULE": SCHEDULE})
        return self

    async def __aexit__(self, *exc: object) -> None:
        for seat in self.seats.values():
            if seat.life is not None:
                with contextlib.suppress(ProcessLookupError):
                    seat.life.process.send_signal(signal.SIGCONT)
                    seat.life.process.kill()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(seat.life.process.wait(), 10)
        await self.look.aclose()
        if self._store is not None:
            self._store.kill()
            self._store.wait()
        for wire in self.wires.values():
            await wire.close()

    def pids(self) -> list[int]:
        """The processes that live."""
        lives = [seat.life.process.pid for seat in self.seats.values() if seat.life is not None]
        return [*lives, self._store.pid] if self._store is not None else lives

    def clock(self, name: str, offset: float) -> None:
        """Have the wall clock of a seat's processes jump: by `offset` seconds against the machine's."""
        (self.folder / "clocks" / name / "offset").write_text(str(offset))

    def _clock(self, name: str) -> None:
        """A wall clock of its own for a seat: Python runs `sitecustomize` at its start."""
        folder = self.folder / "clocks" / name
        folder.mkdir(parents=True)
        (folder / "sitecustomize.py").write_text(CLOCK)
        self.clock(name, 0.0)

    def _certificate(self) -> None:
        """A certificate for the links, as docs/deploy/several-machines.md makes one."""
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
             "-subj", "/CN=foreman-links", "-addext", "subjectAltName=IP:127.0.0.1",
             "-keyout", str(self.folder / "link.key"), "-out", str(self.folder / "link.pem")],
            check=True, capture_output=True,
        )  # fmt: skip

    async def _wire(self, name: str, to: tuple[str, int], *, there: bool = True) -> Wire:
        wire = self.wires[name] = Wire(name, to)
        await wire.open()
        await wire.listen(there)
        return wire

    @staticmethod
    def _fake(target: str, port: int) -> tuple[str, ...]:
        paced = ("--token-seconds", "0.01", "--load-seconds", "0.1", "--slots", "3", "--max-loaded", "2")
        models = ",".join((*MODELS, ANVIL.format(target=target)))
        return ("-m", "foreman.demo.ollama", "--marked", "--port", str(port), "--models", models, *paced)

    async def _gateway(self, name: str) -> None:
        port, link = free_port(), free_port()
        await self._wire(name, ("127.0.0.1", port), there=False)
        announced = await self._wire(f"{name}-link", ("127.0.0.1", link), there=False)
        env = {
            "FOREMAN_ADDR": f"127.0.0.1:{port}",
            "FOREMAN_LINK_ADDR": f"127.0.0.1:{link},127.0.0.1:{announced.port}",
            "FOREMAN_LINK_CERT": str(self.folder / "link.pem"),
            "FOREMAN_LINK_KEY": str(self.folder / "link.key"),
            "FOREMAN_SHUTDOWN_GRACE": f"{self.graces[1]}s",
            "FOREMAN_WEBHOOK_ALLOW": "127.0.0.1",
            "FOREMAN_WEBHOOK_SECRET": "the secret",
        }
        await self._seat(name, "gateway", env)

    async def _seat(self, name: str, role: str, env: dict[str, str]) -> None:
        store = await self._wire(f"{name}-store", ("127.0.0.1", self._store_port))
        env |= {"FOREMAN_REDIS_URL": f"redis://127.0.0.1:{store.port}/0", "FOREMAN_POOL": POOL, "FOREMAN_LOG": "json"}
        env |= {"FOREMAN_DATA_DIR": str(self.folder / "unused"), "FOREMAN_MAX_QUEUE": "100000"}
        self._clock(name)
        self.seats[name] = Seat(name, ("-m", "foreman", "serve", "--role", role), env)

    # ------------------------------------------------------------------ processes

    async def spawn(self, name: str, *, old: bool = False) -> Life:
        """A new life in a seat."""
        seat = self.seats[name]
        assert seat.life is None, name
        number = len(seat.lives) + 1
        tree = self.old if old and self.old is not None else ROOT
        env = {key: value for key, value in os.environ.items() if not key.startswith(("FOREMAN_", "OLLAMA_"))}
        env |= seat.env | {"PYTHONPATH": f"{self.folder / 'clocks' / name}:{tree}"}
        log = self.folder / f"{name}.{number}.log"
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *seat.args, stdout=out, stderr=out, env=env, cwd=self.folder
            )
        life = Life(name, number, process, log, time.time(), old=tree is not ROOT)
        seat.lives.append(life)
        return life

    async def keep(self, name: str) -> None:
        """Hold a seat as a supervisor would (systemd's Restart=always): each life that ends is followed by the next."""
        seat = self.seats[name]
        while not seat.closed:
            life = await self.spawn(name, old=seat.old)
            there = asyncio.get_running_loop().create_task(self._there(life))
            code = await life.process.wait()
            there.cancel()
            life.ended = life.ended or time.time()
            await self._listen(name, there=False)
            life.gone = time.time()
            if not life.how:
                said = life.log.read_text(errors="replace")
                if UP in said.encode() or "Traceback" in said:
                    self.strays.append(f"{name} ended by itself with {code}: {said[-600:]}")
                else:
                    self.refusals.append((life.ended, f"{name} did not start: {said[-300:]}"))
            await asyncio.sleep(RESTART)

    async def _there(self, life: Life) -> None:
        """Open the wires to a process once it listens."""
        if life.seat[0] != "g":
            return
        while not life.up:  # another process sets no event of ours
            await asyncio.sleep(0.02)
            life.look()
        await self._listen(life.seat, there=True)

    async def _listen(self, name: str, *, there: bool) -> None:
        for wire in (name, f"{name}-link"):
            if wire in self.wires:
                await self.wires[wire].listen(there)

    async def end(self, name: str, how: signal.Signals) -> Life:
        """End the life in a seat by a signal and wait for it; `keep` sends the next one."""
        life = self.seats[name].life
        assert life is not None, name
        life.how = how.name
        if how is signal.SIGTERM:
            life.told = time.time()
        else:
            life.ended = time.time()
        with contextlib.suppress(ProcessLookupError):
            life.process.send_signal(how)
        await life.process.wait()
        life.ended = life.ended or time.time()
        return life

    async def ready(self, name: str, timeout: float = 30) -> Life:
        """Until the life in a seat says that it is up; that life. Raises TimeoutError with what it has said."""
        life = None
        try:
            async with asyncio.timeout(timeout):
                while True:
                    life = self.seats[name].life
                    if life is not None:
                        life.look()
                        if life.up:
                            return life
                    await asyncio.sleep(0.02)
        except TimeoutError as error:
            said = life.log.read_text(errors="replace")[-600:] if life is not None else "nobody sits there"
            raise TimeoutError(f"{name} is not up after {timeout:g} s: {said}") from error

    def up(self, name: str) -> bool:
        """Whether the life in a seat has started, and is not frozen."""
        seat = self.seats[name]
        if seat.life is not None:
            seat.life.look()
        return seat.life is not None and not seat.hands.locked() and seat.life.up

    def url(self, gateway: str) -> str:
        """Where callers reach a gateway, through its wire."""
        return f"http://127.0.0.1:{self.wires[gateway].port}"

    def whose(self, worker: str) -> Life | None:
        """The life that a worker's or gateway's id belongs to."""
        for seat in self.seats.values():
            life = seat.life  # the dead own nothing
            if life is not None and worker in life.ids():
                return life
        return None

    async def owner(self, target: str) -> tuple[str, Life] | None:
        """Who owns a target: the worker's id and its life, where that lives."""
        worker = await self.look.hget(f"{self.key}target:{target}", "owner")
        life = self.whose(worker) if worker else None
        return (worker, life) if life is not None and life.ended is None else None

    # ------------------------------------------------------------------ the store

    def store_up(self) -> None:
        """Start Valkey on its own files."""
        data = self.folder / "store"
        data.mkdir(exist_ok=True)
        with (self.folder / "store.log").open("ab") as log:
            self._store = subprocess.Popen(
                [str(find_binary()), "--port", str(self._store_port), "--bind", "127.0.0.1", "--dir", str(data),
                 "--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction",
                 "--auto-aof-rewrite-min-size", "8mb"],
                stdout=log, stderr=log,
            )  # fmt: skip

    async def store_answers(self, timeout: float = 60) -> None:
        """Until it answers us."""
        async with asyncio.timeout(timeout):
            while True:
                with contextlib.suppress(Exception):
                    if await self.look.ping():
                        return
                await asyncio.sleep(0.01)

    async def store_kill(self, away: float) -> None:
        """SIGKILL Valkey, and start it again after `away` seconds."""
        assert self._store is not None
        began = time.time()
        self._store.kill()
        self._store.wait()
        try:
            await asyncio.sleep(away)
        finally:
            self.store_up()
            await self.store_answers()
        self.store_lives.append((began, time.time()))
