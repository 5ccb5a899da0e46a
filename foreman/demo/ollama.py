"""A stateful stand-in for Ollama 0.24 that needs no weights: for demos, tests, fault runs and benches.

In a test: `async with FakeOllama(models=["alpha", "beta"], load_seconds=0.2) as fake: … fake.url …`. As a process:
`python -m foreman.demo.ollama --port 0 --models alpha,beta`, which prints `READY <url>`. What agrees with a real server
and what does not stands in docs/adr/0019-the-fake-ollama.md and in the honesty test.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Any, Final, Self

from aiohttp import web

from foreman.protocols.keep_alive import FOREVER_NS, nanoseconds
from foreman.tasks import Tasks

from .answering import Answering
from .catalogue import Catalogue, Model, model
from .control import control_routes
from .engine import Engine, Pace
from .faults import Fault, Gate, Kind, Plan
from .ledger import Ledger, Load, Seen
from .management import Management
from .origins import DEFAULT_ORIGINS
from .routes import Routes
from .server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["FakeOllama", "Fault", "Gate", "Kind", "Load", "Model", "Seen", "model"]

DEFAULT_MODELS: Final = ("alpha", "beta", "gamma")
OPENAI_SLOTS: Final = 8


class FakeOllama:
    """One server on a port of its own, in the caller's loop.

    Args:
        models: names, or Models made with `model(name, …)`; a name with `embed` in it only embeds.
        kind: `ollama`, or `openai` for a plain /v1 server: no /api, nothing to load, 8 slots.
        version: what /api/version says.
        tokens: tokens of an answer that nothing cuts short.
        token_seconds: from one token to the next, s.
        prefill_seconds: before the first token, s; the slot is busy that long even when the caller leaves.
        prefill_rate: prompt tokens per second on top of that; 0: no time.
        load_seconds: one load, s (a Model may have its own).
        unload_seconds: one unload, s.
        embed_seconds: one call for embeddings, s.
        slots: OLLAMA_NUM_PARALLEL; None: 1, or 8 for `openai`.
        max_loaded: OLLAMA_MAX_LOADED_MODELS.
        max_queue: OLLAMA_MAX_QUEUE.
        keep_alive: OLLAMA_KEEP_ALIVE, a Go duration.
        origins: browser origins beside Ollama's own list.
        token: a bearer to ask for.
        fast: stream with little CPU per token (benches).
        repeatable: times, durations and ids are the same in every answer, so that two answers are equal byte for byte.
        marked: each token is `<process>-<request>-<ms since 1970>.<place>`: an answer spliced from two runs shows.
        host: address to bind.
        port: 0 for any free one; kept when the server is started again.
    """

    def __init__(
        self,
        models: Iterable[str | Model] = DEFAULT_MODELS,
        *,
        kind: str = "ollama",
        version: str = "0.24.0",
        tokens: int = 16,
        token_seconds: float = 0.0,
        prefill_seconds: float = 0.0,
        prefill_rate: float = 0.0,
        load_seconds: float = 0.0,
        unload_seconds: float = 0.0,
        embed_seconds: float = 0.0,
        slots: int | None = None,
        max_loaded: int = 3,
        max_queue: int = 512,
        keep_alive: str = "5m",
        origins: Iterable[str] = (),
        token: str | None = None,
        fast: bool = False,
        repeatable: bool = False,
        marked: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        openai = kind == "openai"
        self.catalogue = Catalogue.of(models)
        self.ledger = Ledger()
        self.plan = Plan()
        self.pace = Pace(
            tokens,
            token_seconds,
            prefill_seconds,
            prefill_rate,
            0.0 if openai else load_seconds,
            unload_seconds,
            embed_seconds,
        )
        self._tasks = Tasks("fake-ollama")
        self.engine = Engine(
            self._tasks,
            self.ledger,
            self.plan,
            self.pace,
            slots=slots or (OPENAI_SLOTS if openai else 1),
            max_loaded=sys.maxsize if openai else max_loaded,
            max_queue=max_queue,
            keep_alive_ns=FOREVER_NS if openai else nanoseconds(keep_alive),
        )
        routes = Routes(
            Answering(self.engine, self.plan, self.pace, self.ledger, fast=fast, repeatable=repeatable, marked=marked),
            self.catalogue,
            version,
        )
        management = Management(self.catalogue, self.pace, self.plan)
        native = {} if openai else routes.native() | management.routes()
        table = routes.openai() | native | control_routes(self)
        self._server = Server(self.ledger, table, (*DEFAULT_ORIGINS, *origins), gin=not openai, token=token)
        self._runner: web.AppRunner | None = None
        self._host = host
        self._port = port

    # ------------------------------------------------------------------------------------------- life

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://{self._host}:{self._port}"

    async def start(self) -> Self:
        """Listen; again after `stop()` on the same port, with nothing loaded."""
        # Callers are noticed when they leave only so; bodies are recorded as sent.
        self._runner = web.AppRunner(
            self._server.app(), handler_cancellation=True, auto_decompress=False, access_log=None, shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self.engine.start()
        return self

    async def stop(self) -> None:
        """Cut every connection, as a server that gets SIGTERM, and forget what is loaded."""
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        for connection in list(runner.server.connections if runner.server else ()):
            connection.force_close()
        await runner.cleanup()
        await self._tasks.close()
        self.engine.clear()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    # ------------------------------------------------------------------------------------------- what a test scripts

    def fault(self, kind: Kind | str, **how: Any) -> Fault:
        """Let the next request go wrong that fits; `how` is the other fields of Fault. Loads and unloads never fit."""
        return self.plan.add_fault(Fault(Kind(kind), **how))

    def gate(self, after: int = 0, **how: Any) -> Gate:
        """Hold the next request that fits before its line number `after` (0: before the first byte).

        Then `await gate.reached()`, `await gate.release(1)` for one line, `await gate.release()` for the rest.
        `at="load"` holds the next load instead.
        """
        return self.plan.add_gate(Gate(after, **how))

    def clear(self) -> None:
        """No more faults, all gates open, counters at zero; residents stay."""
        self.plan.clear()
        self.ledger.reset()

    async def until(self, what: Callable[[FakeOllama], Any], timeout: float = 60) -> Any:
        """Wait until `what(fake)` is true, and return it.

        Raises:
            TimeoutError: not within `timeout` seconds.
        """
        return await self.ledger.until(lambda: what(self), timeout)

    # ------------------------------------------------------------------------------------------- what a test reads

    @property
    def requests(self) -> list[Seen]:
        """The requests seen, oldest first, those to /_fake left out."""
        return list(self.ledger.requests)

    def requests_to(self, *paths: str) -> list[Seen]:
        """The requests seen on these paths (without query)."""
        return [seen for seen in self.ledger.requests if seen.path.partition("?")[0] in paths]

    @property
    def loads(self) -> list[Load]:
        """The loads begun, in order."""
        return list(self.ledger.loads)

    @property
    def unloads(self) -> list[Load]:
        """The unloads ended, in order."""
        return list(self.ledger.unloads)

    @property
    def residents(self) -> list[str]:
        """Names of the models that are loaded, as /api/ps tells them."""
        return [runner.model.name for runner in self.engine.residents]

    @property
    def tokens(self) -> int:
        """Tokens generated so far."""
        return self.ledger.tokens

    @property
    def cancels(self) -> int:
        """Requests whose caller left before the end of the answer."""
        return self.ledger.cancels

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        server = self._runner.server if self._runner is not None else None
        return len(server.connections) if server is not None else 0

    @property
    def answering(self) -> int:
        """Requests that hold a slot now."""
        return sum(seen.phase in {"prefill", "answering"} for seen in self.ledger.requests)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m foreman.demo.ollama", description="A simulated Ollama.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--models", default=",".join(DEFAULT_MODELS), help="comma list")
    parser.add_argument("--openai", action="store_true", help="a plain /v1 server, without /api")
    parser.add_argument("--version-string", default="0.24.0", help="what /api/version says")
    for name in ("token", "prefill", "load", "unload", "embed"):
        parser.add_argument(f"--{name}-seconds", type=float, default=0.0)
    parser.add_argument("--prefill-rate", type=float, default=0.0, help="prompt tokens per second")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--slots", type=int, default=None)
    parser.add_argument("--max-loaded", type=int, default=3)
    parser.add_argument("--max-queue", type=int, default=512)
    parser.add_argument("--keep-alive", default="5m")
    parser.add_argument("--bearer", default=None, help="a token to ask for")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--repeatable", action="store_true")
    parser.add_argument("--marked", action="store_true", help="tokens that name their run, for fault runs")
    return parser.parse_args(argv)


async def _serve(args: argparse.Namespace) -> None:
    fake = FakeOllama(
        [name for name in args.models.split(",") if name],
        kind="openai" if args.openai else "ollama",
        version=args.version_string,
        tokens=args.tokens,
        token_seconds=args.token_seconds,
        prefill_seconds=args.prefill_seconds,
        prefill_rate=args.prefill_rate,
        load_seconds=args.load_seconds,
        unload_seconds=args.unload_seconds,
        embed_seconds=args.embed_seconds,
        slots=args.slots,
        max_loaded=args.max_loaded,
        max_queue=args.max_queue,
        keep_alive=args.keep_alive,
        token=args.bearer,
        fast=args.fast,
        repeatable=args.repeatable,
        marked=args.marked,
        host=args.host,
        port=args.port,
    )
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sign, ended.set)
    async with fake:
        sys.stdout.write(f"READY {fake.url}\n")
        sys.stdout.flush()
        await ended.wait()


def main(argv: list[str] | None = None) -> None:
    """Run one as a process, on uvloop where there is one."""
    args = _arguments(argv)
    try:
        import uvloop  # noqa: PLC0415  # not on every platform
    except ImportError:
        asyncio.run(_serve(args))
    else:
        uvloop.run(_serve(args))


if __name__ == "__main__":
    main()
