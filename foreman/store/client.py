"""The door of the store: connect, and get the queue, the inboxes and what arq needs.

The command line calls connect() once per process and hands the Store on; I dial, check the server, and say clearly what
is wrong with it. I refuse a Cluster and anything older than Redis 6.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, overload

from arq.connections import ArqRedis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from foreman.store import checks, inbox
from foreman.store.answers import Answers
from foreman.store.deliveries import Deliveries
from foreman.store.errors import StoreRefusedError, StoreUnavailableError
from foreman.store.operators import Operators
from foreman.store.past import Past
from foreman.store.queue import Queue
from foreman.store.roster import Limits
from foreman.store.swaps import Swaps
from foreman.store.tallies import Tallies
from foreman.store.url import StoreUrl, parse
from foreman.store.views import Views
from foreman.store.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Literal

    from foreman.store.checks import Finding
    from foreman.store.inbox import Inbox
    from foreman.store.records import Notice, Order
    from foreman.store.wire import Connection

BLOCK: Final = 1.0
"""Seconds a blocking pop waits."""
TIMEOUT: Final = 5.0
"""Seconds after which a silent server counts as away."""


class StoreSettings(Protocol):
    """The settings the store reads."""

    @property
    def pool(self) -> str:
        """FOREMAN_POOL."""

    @property
    def max_queue(self) -> int:
        """FOREMAN_MAX_QUEUE."""

    @property
    def max_attempts(self) -> int:
        """FOREMAN_MAX_ATTEMPTS."""

    @property
    def job_ttl(self) -> float:
        """FOREMAN_JOB_TTL in seconds."""

    @property
    def store_bytes(self) -> int:
        """FOREMAN_STORE_BYTES."""


class Store:
    """One pool of one server, as a process holds it."""

    def __init__(
        self,
        connection: Connection,
        new_connection: Callable[[], Awaitable[Connection]],
        pool: str,
        limits: Limits,
        findings: tuple[Finding, ...] = (),
        url: str = "",
    ) -> None:
        self.url = url
        """What connect() was given, for those that need a connection of their own kind (LeaseKeeper, arq)."""
        self._connection = connection
        self._new_connection = new_connection
        self._inboxes: list[Inbox[Any]] = []
        self.queue = Queue(connection, pool, limits)
        self.deliveries = Deliveries(connection, pool)
        self.operators = Operators(connection, pool, limits)
        self.views = Views(connection, pool, limits)
        self.answers = Answers(connection, self.queue.keys)
        self.tallies = Tallies(connection, self.queue.keys)
        self.swaps = Swaps(connection, self.queue.keys)
        self.past = Past(connection, self.queue.keys)
        self.findings = findings
        """What connect() or the last `look` saw that should be put right: for `doctor` and `/healthz`."""

    async def look(self) -> tuple[Finding, ...]:
        """Check the server again: it may have been restarted, reconfigured, or be another by now. The findings.

        Raises StoreUnavailableError.
        """
        self.findings = await checks.check(self._connection)
        return self.findings

    @overload
    async def inbox(self, kind: Literal["worker"], owner: str) -> Inbox[Order]: ...
    @overload
    async def inbox(self, kind: Literal["gateway"], owner: str) -> Inbox[Notice]: ...
    async def inbox(self, kind: Literal["worker", "gateway"], owner: str) -> Inbox[Any]:
        """The inbox of a worker or a gateway, on a connection of its own."""
        connection = await self._new_connection()
        make = inbox.of_worker if kind == "worker" else inbox.of_gateway
        made: Inbox[Any] = make(connection, self.queue.keys, owner)
        self._inboxes = [*(one for one in self._inboxes if not one.closed), made]  # a worker may begin anew many times
        return made

    async def close(self) -> None:
        """Close all connections; what is in flight fails."""
        for made in self._inboxes:
            await made.close()
        await self._connection.close()


async def connect(settings: StoreSettings, url: str, *, wait: float = 10.0) -> Store:
    """Dial the store, check that it can serve, and open the pool of `settings`.

    Args:
        settings: Pool and limits.
        url: As store/url.py reads it; `FOREMAN_REDIS_URL` or what EmbeddedServer.start() returned.
        wait: Seconds to wait for a server that isn't there yet.

    Raises:
        ValueError: `url` is none.
        StoreUnavailableError: Nothing answered in time.
        StoreRefusedError: It answers, but is a Cluster or too old.
    """
    where = parse(url)
    wire = Wire(where, locator(where), timeout=TIMEOUT)
    try:
        await wire.open(wait)
        findings = await checks.check(wire)
    except BaseException:
        await wire.close()
        raise
    if refused := next((finding for finding in findings if finding.fatal), None):
        await wire.close()
        raise StoreRefusedError(refused.message)

    async def another() -> Wire:
        line = Wire(where, locator(where), timeout=BLOCK + TIMEOUT, preload=False)
        await line.open(wait)
        return line

    limits = Limits(
        max_queue=settings.max_queue,
        max_attempts=settings.max_attempts,
        job_ttl=settings.job_ttl,
        store_bytes=settings.store_bytes,
    )
    return Store(wire, another, settings.pool, limits, findings, url)


def locator(where: StoreUrl) -> Callable[[], Awaitable[tuple[str, int]]]:
    """Where the primary listens now, asked before each dial: the URL's own host, or what its Sentinels say."""

    async def fixed() -> tuple[str, int]:
        return where.nodes[0]

    async def sentinels() -> tuple[str, int]:
        assert where.service is not None
        sentinel = Sentinel(list(where.nodes), socket_timeout=1.0)  # type: ignore[no-untyped-call] # redis-py 5 left it untyped
        try:
            host, port = await sentinel.discover_master(where.service)
        except (RedisError, OSError) as error:
            raise StoreUnavailableError(f"No Sentinel names a primary for {where.service!r}: {error}") from error
        finally:
            for node in sentinel.sentinels:
                await node.aclose()
        return str(host), int(port)

    return sentinels if where.service else fixed


def patient_retry() -> Retry:
    """Retries for redis-py under arq: without them a 1 s blip of the server ends an arq worker (arq#386)."""
    return Retry(ExponentialBackoff(cap=1, base=0.05), 1000)


def arq_client(url: str) -> ArqRedis:
    """A client for arq's worker, surviving outages of minutes; `close_arq` ends it. Raises ValueError for a URL that is none.

    arq's own would go to a primary behind Sentinels without retries, and over TLS without our certificates.
    """
    where = parse(url)
    patience: dict[str, Any] = {
        "retry": patient_retry(),
        "retry_on_error": [RedisConnectionError, RedisTimeoutError, OSError],
        "socket_connect_timeout": 1.0,
    }
    if where.service is None:
        return ArqRedis(**_dialled(where), **patience)
    sentinels = Sentinel(list(where.nodes), sentinel_kwargs={"socket_timeout": 1.0})  # type: ignore[no-untyped-call] # redis-py 5 left it untyped
    made: ArqRedis = sentinels.master_for(where.service, redis_class=ArqRedis, **_dialled(where), **patience)
    return made


async def close_arq(client: ArqRedis) -> None:
    """Close all its connections, those to Sentinels too."""
    sentinels = getattr(client.connection_pool, "sentinel_manager", None)
    await client.aclose(close_connection_pool=True)
    for node in sentinels.sentinels if sentinels else ():
        await node.aclose()


def _dialled(where: StoreUrl) -> dict[str, Any]:
    """What redis-py has to know; behind Sentinels all but the address."""
    options: dict[str, Any] = {"username": where.username, "password": where.password, "db": where.db}
    if where.path is not None:
        return options | {"unix_socket_path": where.path}
    if where.service is None:
        options |= {"host": where.nodes[0][0], "port": where.nodes[0][1]}
    if where.tls:
        options |= {"ssl": True, "ssl_ca_certs": where.ca, "ssl_certfile": where.cert, "ssl_keyfile": where.key}
        options |= {"ssl_cert_reqs": "required" if where.verify else "none", "ssl_check_hostname": where.verify}
    return options


def redis_client(url: str, **options: Any) -> Redis:
    """A plain redis-py client for what is neither hot nor the queue's. Raises ValueError, also for Sentinels' URLs."""
    where = parse(url)
    if where.service:
        raise ValueError(f"{where.shown} are Sentinels: ask locator() for the primary's address")
    patience: dict[str, Any] = {"retry": Retry(ExponentialBackoff(cap=1, base=0.05), 3), "socket_timeout": TIMEOUT}
    return Redis(**_dialled(where), **options, **patience)
