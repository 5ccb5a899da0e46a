"""The thread that keeps a worker's lease or a gateway's presence: a renewal a second, whatever its loop is busy with.

They start me after Queue.enroll or Queue.announce; I renew on a connection of my own and say once when it was over, as after
a SIGSTOP. While the store is away I keep trying and judge nothing: no one else can take the worker's jobs then either.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Final

import structlog
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry
from redis.sentinel import Sentinel

from foreman.store import rows
from foreman.store.keys import Keys
from foreman.store.roster import LEASE
from foreman.store.scripts import script
from foreman.store.url import StoreUrl, parse

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)

INTERVAL: Final = 1.0
"""Seconds between renewals: three may fail before a lease of 4 s is over."""


class LeaseKeeper:
    """Renews one lease from a thread of its own."""

    def __init__(
        self,
        url: str,
        pool: str,
        holder: str,
        on_lost: Callable[[], None],
        *,
        interval: float = INTERVAL,
        lease: float = LEASE,
    ) -> None:
        """Nothing happens before `start`.

        Args:
            url: The store.
            pool: The pool's name.
            holder: Whose lease: a worker's id or a gateway's.
            on_lost: Called once each time the lease turns out to be over: on the event loop that `start` was called
                from, or on the keeper's thread where there was none.
            interval: Seconds between renewals.
            lease: Seconds a renewal lasts.
        """
        self._where = parse(url)
        self._prefix = Keys(pool).prefix
        self._holder = holder
        self._on_lost = on_lost
        self._interval = interval
        self._lease = lease
        self._stopping = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name=f"lease-{holder}", daemon=True)

    def start(self) -> None:
        """Begin renewing."""
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        self._thread.start()

    def stop(self) -> None:
        """Stop renewing; the lease itself ends by Queue.retire or Queue.leave, or by itself. Returns within a second or so."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=self._interval + 3.0)

    def _run(self) -> None:
        lost = away = False
        client = _client(self._where)
        while not self._stopping.wait(self._interval):
            try:
                renewed = self._renew(client)
            except Exception as error:  # noqa: BLE001 - out of memory, say: without this thread the lease ends, and nobody is told
                if not away:
                    log.warning("lease.unrenewed", holder=self._holder, error=str(error))
                away = True
                continue
            away = False
            if not renewed and not lost:
                log.error("lease.lost", holder=self._holder)
                self._tell()
            lost = not renewed
        client.close()

    def _renew(self, client: Redis) -> bool:
        entry = script("renew")
        arguments: tuple[Any, ...] = (1, self._prefix, self._holder, rows.ms(self._lease))
        try:
            return bool(client.evalsha(entry.sha, *arguments))
        except NoScriptError:
            return bool(client.eval(entry.source, *arguments))

    def _tell(self) -> None:
        if self._loop is None:
            self._on_lost()
            return
        try:
            self._loop.call_soon_threadsafe(self._on_lost)
        except RuntimeError:  # the loop is closed: nobody is left to be told
            self._stopping.set()


def _client(where: StoreUrl) -> Redis:
    """A sync client that fails within 2 s instead of retrying: the next beat is the retry."""
    options: dict[str, Any] = {
        "username": where.username,
        "password": where.password,
        "db": where.db,
        "socket_timeout": 2.0,
        "socket_connect_timeout": 2.0,
        "retry": Retry(NoBackoff(), 0),
    }
    if where.path is not None:
        return Redis(unix_socket_path=where.path, **options)
    if where.tls:
        options |= {"ssl": True, "ssl_ca_certs": where.ca, "ssl_certfile": where.cert, "ssl_keyfile": where.key}
        options |= {"ssl_cert_reqs": "required" if where.verify else "none", "ssl_check_hostname": where.verify}
    if where.service:
        sentinel = Sentinel(list(where.nodes), socket_timeout=1.0)  # type: ignore[no-untyped-call] # redis-py 5 left it untyped
        client: Redis = sentinel.master_for(where.service, **options)  # type: ignore[no-untyped-call] # as above
        return client
    return Redis(host=where.nodes[0][0], port=where.nodes[0][1], **options)
