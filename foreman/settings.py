"""Every setting of foreman: `FOREMAN_…` variables, or the same lines in `.env`, into one frozen object.

The command line and the tests call `load`; everybody else gets the object. I check values, not the world: no socket,
no target, no folder is touched. A wrong value is a SettingsError: one sentence with the variable, the value (never a
secret one) and what would be right. What each setting means for an operator stands in docs/configuration.md.
"""

from __future__ import annotations

import difflib
import os
import re
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from dotenv import dotenv_values
from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from foreman.core import callers, destinations, targets, units
from foreman.core.callers import NamedToken
from foreman.core.jobs import Priority
from foreman.core.targets import TargetSettings
from foreman.protocols import webhook
from foreman.protocols.keep_alive import parse_keep_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["NamedToken", "Settings", "SettingsError", "TargetSettings", "load", "unknown_variables"]

PREFIX: Final = "FOREMAN_"
SECRET: Final = frozenset(
    {"token", "tokens", "read_token", "ollama_token", "link_secret", "redis_url", "webhook_secret"}
)
"""Settings whose value no message may show."""

_FOREIGN: Final = ("FOREMAN_TEST_", "FOREMAN_BENCH_")
"""Prefixes of variables that belong to the test suite."""

DUE_AFTER: Final = {Priority.HIGH: 5.0, Priority.NORMAL: 120.0, Priority.LOW: 1800.0}


class SettingsError(Exception):
    """A setting is wrong, or two don't go together; the message says which and what would be right."""


def _matching(pattern: str, advice: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(advice)
        return text

    return check


def _count(text: str | int) -> int:
    """A whole number from 1 on, at most a million."""
    number = int(text) if re.fullmatch(r"\d{1,9}", str(text), re.ASCII) else 0
    if not 1 <= number <= 1_000_000:
        raise ValueError("use a whole number from 1 to 1000000")
    return number


def _share(text: str | float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1:
        raise ValueError("use a share strictly between 0 and 1, such as 0.2")
    return number


def due_after(text: str | dict[Priority, float]) -> dict[Priority, float]:
    """`high=5s,normal=2m,low=30m`; a class left out keeps its default."""
    if isinstance(text, dict):
        return DUE_AFTER | text
    try:
        pairs = [part.split("=") for part in text.split(",") if part.strip()]
        given = {Priority.of(word.strip()): units.duration(span) for word, span in pairs}
    except ValueError:
        raise ValueError("use class=duration for high, normal and low, such as high=5s,normal=2m,low=30m") from None
    return DUE_AFTER | given


def _address(text: str) -> str:
    units.address(text)
    return text.strip()


def _link_address(text: str) -> str:
    """`bind`, or `bind,announced`."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 2:
        raise ValueError("use bind or bind,announced, such as 0.0.0.0:7480,gateway.lan:7480")
    for part in parts:
        units.address(part)
    if len(parts) == 2 and not units.address(parts[1])[0]:
        raise ValueError("name a host that workers reach in the announced half, such as 0.0.0.0:7480,gateway.lan:7480")
    return ",".join(parts)


def _keep_alive(text: str | float) -> str:
    """Checked by Ollama's own rule; kept as it was written, for protocols.keep_alive.parse_keep_alive."""
    word = str(text).strip()
    try:
        parse_keep_alive(word)
    except ValueError:
        advice = "use seconds (300), a duration (15m, 1h30m), 0 to unload at once or -1 for ever"
        raise ValueError(advice) from None
    return word


def _callers(value: str | tuple[NamedToken, ...]) -> tuple[NamedToken, ...]:
    return callers.parse(value) if isinstance(value, str) else value


def _origins(value: str | tuple[str, ...]) -> tuple[str, ...]:
    """Browser origins; each may hold one `*`."""
    found = tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
    for origin in found:
        if origin.count("*") > 1 or (origin != "*" and not re.match(r"[a-z][a-z0-9+.-]*://\S+$", origin)):
            raise ValueError("use origins such as https://chat.example.com or https://*.example.com, one * each")
    return found


def _webhook_secrets(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return webhook.secrets(value) if isinstance(value, str) else value


def _webhook_allow(value: str | tuple[destinations.Rule, ...]) -> tuple[destinations.Rule, ...]:
    return destinations.parse(value) if isinstance(value, str) else value


def _webhook_schedule(value: str | tuple[float, ...]) -> tuple[float, ...]:
    return webhook.schedule(value) if isinstance(value, str) else value


def _path(value: str | Path) -> Path:
    return Path(value).expanduser()


def _data_dir() -> Path:
    """$XDG_DATA_HOME/foreman, by default ~/.local/share/foreman (XDG Base Directory Specification)."""
    home = os.environ.get("XDG_DATA_HOME", "")
    return (Path(home) if home.startswith("/") else Path.home() / ".local" / "share") / "foreman"


Duration = Annotated[float, BeforeValidator(units.duration)]
PositiveDuration = Annotated[float, BeforeValidator(partial(units.duration, zero=False))]
Size = Annotated[int, BeforeValidator(units.size)]
Count = Annotated[int, BeforeValidator(_count)]
Boolean = Annotated[bool, BeforeValidator(units.boolean)]
Address = Annotated[str, BeforeValidator(_address)]
ServerURL = Annotated[str, BeforeValidator(targets.url)]
Token = Annotated[str, BeforeValidator(callers.token)]
PathOf = Annotated[Path, BeforeValidator(_path)]
StoreURL = Annotated[
    str,
    BeforeValidator(
        _matching(
            r"(rediss?(\+sentinel)?|unix)://\S+",
            "use redis://host:6379/0, rediss://…, unix:///path or redis+sentinel://…",
        )
    ),
]
Pool = Annotated[
    str, BeforeValidator(_matching(r"[A-Za-z0-9_-]{1,64}", "use 1 to 64 letters, digits, - or _, such as default"))
]
KeepAlive = Annotated[str, BeforeValidator(_keep_alive)]
IdleUnload = Annotated[float | None, BeforeValidator(targets.idle_unload)]
DueAfter = Annotated[dict[Priority, float], NoDecode, BeforeValidator(due_after)]
Durability = Annotated[
    Literal["everysec", "always"], BeforeValidator(_matching("everysec|always", "use everysec or always"))
]
Log = Annotated[Literal["console", "json"], BeforeValidator(_matching("console|json", "use console or json"))]


class Settings(BaseSettings):
    """The settings in force. Durations are seconds, sizes bytes; the attribute is the variable in lower case."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        ignored_types=(cached_property,),
    )

    addr: Address = "127.0.0.1:8080"
    url: ServerURL | None = None
    """Where the command line finds the gateway; None: at `addr`."""

    ollama_url: ServerURL = "http://127.0.0.1:11434"
    ollama_token: Token | None = Field(default=None, repr=False)
    targets: str | None = None
    targets_file: PathOf | None = None

    token: Token | None = Field(default=None, repr=False)
    tokens: Annotated[tuple[NamedToken, ...], NoDecode, BeforeValidator(_callers)] = ()
    read_token: Token | None = Field(default=None, repr=False)
    origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)] = ()
    insecure: Boolean = False

    redis_url: StoreURL | None = Field(default=None, repr=False)
    """None: the embedded store."""
    pool: Pool = "default"
    data_dir: PathOf = Field(default_factory=_data_dir)
    durability: Durability = "everysec"

    link_addr: Annotated[str, BeforeValidator(_link_address)] = "127.0.0.1:0"
    link_secret: Token | None = Field(default=None, repr=False)
    link_cert: PathOf | None = None
    link_key: PathOf | None = None
    link_ca: PathOf | None = None

    webhook_secret: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_webhook_secrets)] = Field(
        default=(), repr=False
    )
    webhook_allow: Annotated[tuple[destinations.Rule, ...], NoDecode, BeforeValidator(_webhook_allow)] = ()
    webhook_schedule: Annotated[tuple[float, ...], NoDecode, BeforeValidator(_webhook_schedule)] = webhook.SCHEDULE
    """The gaps before the first, second … attempt."""

    keep_alive: KeepAlive = "-1"
    embed_model: str | None = None
    idle_unload: IdleUnload = None
    """None: off."""
    poll_interval: PositiveDuration = 30.0
    max_queue: Count = 10_000
    max_body: Size = 64 << 20
    max_answer: Size = 16 << 20
    store_bytes: Size = 1 << 30
    max_attempts: Count = 3
    job_ttl: PositiveDuration = 86_400.0
    due_after: DueAfter = DUE_AFTER
    swap_budget: Annotated[float, BeforeValidator(_share)] = 0.2

    headers_after: Duration = 20.0
    heartbeat: PositiveDuration = 15.0
    json_headers_after: Duration = 0.0
    """0: never."""
    spool_bytes: Size = 1 << 20
    reader_timeout: PositiveDuration = 60.0
    upstream_timeout: Duration = 300.0
    """0: off."""
    down_wait: Duration = 60.0
    """0: for ever."""
    shutdown_grace: Duration = 30.0
    model_management: Boolean = False
    """Unset: true with a loopback address and one target."""
    log: Log | None = None
    """None: console on a terminal, else json."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """What two settings say together."""
        if self.targets is not None and self.targets_file is not None:
            raise ValueError("FOREMAN_TARGETS and FOREMAN_TARGETS_FILE are both set: keep one of them")
        if self.link_key is not None and self.link_cert is None:
            raise ValueError("FOREMAN_LINK_KEY is set without FOREMAN_LINK_CERT: set the certificate too")
        if self.store_bytes < self.max_body + self.max_answer:
            least = "as much as FOREMAN_MAX_BODY and FOREMAN_MAX_ANSWER in sum"
            raise ValueError(f"FOREMAN_STORE_BYTES is {self.store_bytes}: use at least {least}")
        try:
            found = self.target_list
        except ValueError as error:
            name = self.targets_source
            raise ValueError(f"{PREFIX}{name.upper()} is {_shown(name, str(getattr(self, name)))}: {error}") from None
        if "model_management" not in self.model_fields_set:
            object.__setattr__(self, "model_management", self.loopback and len(found) == 1)
        return self

    @cached_property
    def target_list(self) -> tuple[TargetSettings, ...]:
        """The targets as they were at start."""
        return self.read_targets()

    def read_targets(self) -> tuple[TargetSettings, ...]:
        """The targets as they stand now, in the order they were named; one called `ollama` where only its URL is given.

        Raises:
            ValueError: what is named is wrong, or the file can't be read; the message is advice.
        """
        if self.targets is None and self.targets_file is None:
            return (TargetSettings("ollama", self.ollama_url, token=self.ollama_token),)
        environ = {key: value for key, value in dotenv_values(".env").items() if value} | os.environ
        if self.targets is not None:
            return targets.parse(self.targets, environ, self.ollama_token)
        assert self.targets_file is not None
        try:
            lines = self.targets_file.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"it can't be read ({error}): write one target a line into it") from None
        return targets.parse_lines(lines, environ, self.ollama_token)

    @property
    def targets_source(self) -> str:
        """The setting that names the targets: `targets`, `targets_file` or `ollama_url`."""
        if self.targets is not None:
            return "targets"
        return "targets_file" if self.targets_file is not None else "ollama_url"

    @property
    def host(self) -> str:
        """Where the gateway listens; "" is all interfaces."""
        return units.address(self.addr)[0]

    @property
    def port(self) -> int:
        """Its port; 0 is any free one."""
        return units.address(self.addr)[1]

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches the gateway."""
        return units.is_loopback(self.host)

    @property
    def guarded(self) -> bool:
        """Whether callers need a token."""
        return self.token is not None or bool(self.tokens)

    @property
    def gateway_url(self) -> str:
        """Where the command line calls the gateway: `url`, else `addr` as seen from this machine."""
        if self.url is not None:
            return self.url
        host = self.host if self.host not in {"", "0.0.0.0", "::"} else "127.0.0.1"  # noqa: S104 - compared, not bound
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def link_bind(self) -> str:
        """`host:port` of the link port."""
        return self.link_addr.partition(",")[0]

    @property
    def link_announce(self) -> str:
        """`host:port` that workers are told; port 0 stands for the port it got."""
        return self.link_addr.partition(",")[2] or self.link_bind

    def check_exposed(self) -> None:
        """Refuse to serve the whole network without a token (ADR-0010). Called before a gateway listens.

        Raises:
            SettingsError: `addr` is no loopback address, no token is set and `insecure` is false.
        """
        if not (self.loopback or self.guarded or self.insecure):
            raise SettingsError(
                f"FOREMAN_ADDR is {self.addr!r}, which other machines reach, and no token is set: set FOREMAN_TOKEN "
                "(or FOREMAN_TOKENS), listen on 127.0.0.1, or set FOREMAN_INSECURE=true if the network itself keeps strangers out"
            )


def load(**given: Any) -> Settings:
    """The settings from the environment and `.env`; `given` (attribute=value) goes before both.

    Raises:
        SettingsError: a value is wrong; one sentence.
    """
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError(_sentence(error)) from None


def _sentence(error: ValidationError) -> str:
    """The first thing wrong, for a person."""
    first = error.errors(include_url=False)[0]
    advice = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"]:
        return advice
    name = str(first["loc"][0])
    variable = PREFIX + name.upper()
    return f"{variable} is {_shown(name, str(first['input']))}: {advice}"


def _shown(name: str, value: str) -> str:
    """A value for a message: not a secret one, nor a URL in which a password may stand before the @."""
    return "wrong" if name in SECRET or "@" in value else repr(value)


def unknown_variables(environ: Mapping[str, str] | None = None, env_file: str = ".env") -> list[str]:
    """A sentence for each `FOREMAN_…` variable that is no setting, with the nearest one where there is one."""
    names = set(os.environ if environ is None else environ)
    if Path(env_file).is_file():
        names |= set(dotenv_values(env_file))
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    sentences = []
    for name in sorted(name for name in names if name.startswith(PREFIX) and not name.startswith(_FOREIGN)):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            hint = f": did you mean {near[0]}?" if near else "; docs/configuration.md lists those there are"
            sentences.append(f"{name} is no setting of this version{hint}")
    return sentences
