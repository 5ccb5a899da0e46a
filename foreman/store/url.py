"""Where the store is: FOREMAN_REDIS_URL taken apart.

connect() and the embedded server's callers hand me a URL; I turn it into an address that wire.py dials and that redis-py
understands, and refuse what names no server, in one sentence.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
DEFAULT_PORT: Final = 6379
SENTINEL_PORT: Final = 26379
_HIGHEST_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A parsed store URL. With `service`, `nodes` are Sentinels that know where its primary is."""

    nodes: tuple[tuple[str, int], ...] = ()
    path: str | None = None
    """The unix socket, or None for TCP."""
    service: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0
    tls: bool = False
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: bool = True

    @property
    def shown(self) -> str:
        """The address without secrets, for logs and messages."""
        if self.path is not None:
            return f"unix:{self.path}"
        hosts = ",".join(f"{host}:{port}" for host, port in self.nodes)
        return f"{hosts} (service {self.service})" if self.service else hosts

    def ssl_context(self) -> ssl.SSLContext | None:
        """What TLS needs, or None without TLS. Raises OSError for a file that can't be read."""
        if not self.tls:
            return None
        context = ssl.create_default_context(cafile=self.ca)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key)
        return context


def parse(url: str) -> StoreUrl:
    """Take a store URL apart.

    `redis://[user:password@]host[:port][/db]` · `rediss://` the same over TLS, with redis-py's options `ssl_ca_certs`,
    `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs=none` · `unix://[user:password@]/path[?db=n]` ·
    `redis+sentinel://[user:password@]host[:port],host[:port]/service[/db]`.

    Raises:
        ValueError: It is none of these; the message says what would be right.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES or not rest:
        raise ValueError(
            f"{_bare(url)!r} is no store URL: use redis://host:6379/0, rediss://…, unix:///path or redis+sentinel://…"
        )
    parts = urlsplit(f"//{rest}")
    userinfo, _, hosts = parts.netloc.rpartition("@")
    username, _, password = (unquote(piece) for piece in userinfo.partition(":"))
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if scheme == "unix":
        db = _number(options.get("db", "0"), url)
        return StoreUrl(path=unquote(parts.path), username=username or None, password=password or None, db=db)
    sentinel = scheme.endswith("+sentinel")
    path = parts.path.strip("/").split("/")
    service = path.pop(0) if sentinel else None
    if sentinel and not service:
        raise ValueError(f"{_bare(url)!r} names no Sentinel service: use redis+sentinel://host:26379/service/0")
    return StoreUrl(
        nodes=tuple(_node(host, SENTINEL_PORT if sentinel else DEFAULT_PORT, url) for host in hosts.split(",")),
        service=service,
        username=username or None,
        password=password or None,
        db=_number(options.get("db") or (path[0] if path and path[0] else "0"), url),
        tls=scheme.startswith("rediss"),
        ca=options.get("ssl_ca_certs"),
        cert=options.get("ssl_certfile"),
        key=options.get("ssl_keyfile"),
        verify=options.get("ssl_cert_reqs", "required") != "none",
    )


def _bare(url: str) -> str:
    """The URL as a message may show it."""
    return re.sub(r"^((?:[^/]*//)?)[^@]*@", r"\1…@", url)


def _node(text: str, port: int, url: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    number = _number(parts.netloc.rpartition("]")[2].partition(":")[2] or str(port), url)
    if number > _HIGHEST_PORT:
        raise ValueError(f"{_bare(url)!r} is no store URL: there is no port {number}")
    return parts.hostname or "localhost", number


def _number(text: str, url: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{_bare(url)!r} is no store URL: {text!r} should be a number")
    return int(text)
