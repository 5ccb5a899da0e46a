"""The prose of docs/streaming.md; streaming.py puts its measurements into it. I measure nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HEAD: Final = """# Streams that survive production

Written by `python tests/bench/streaming.py` on {when}, at {commit}, Python {python}, two cores that everything shares: the model, nginx, Chromium,
foreman and its store. The times are this machine's; what they show should be yours too. When something is wrong at night: [runbook.md](runbook.md).

"""


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return "\n".join([*lines, *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)])


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1000:.1f}"


def left_out(parts: Sequence[str]) -> str:
    """A section that could not be measured."""
    return f"*Left out: needs {', '.join(parts)}.*"


def true_model(rows: Sequence[tuple[str, float, float, float, int]], timings: Mapping[str, Any], said: str) -> str:
    """Times in seconds."""
    table = _table(
        ("way", "TTFT ms", "TPOT ms", "total ms", "tokens"),
        [(name, _ms(ttft), _ms(tpot), _ms(total), tokens) for name, ttft, tpot, total, tokens in rows],
    )
    told = ", ".join(f"`{name}` {timings[name]:.1f}" for name in sorted(timings) if timings[name] is not None)
    return f"""## A true model through nginx

SmolLM2-135M on this CPU (`foreman demo --real`), through [deploy/nginx.conf](deploy/nginx.conf) and `/v1/chat/completions`; medians of nine answers,
one way after the other, whose prompt is in the model's cache. Measured at the client (`foreman.client`): TTFT from the call to the first token, TPOT the mean time between
two tokens after it.

{table}

The job object tells the worker's own view of the last of them (`GET /jobs/{{id}}`, `timings`, ms): {told}. It said: “{said}”"""


def first_sign(signs: Mapping[str, float]) -> str:
    """Seconds to each first sign."""

    def row(name: str, who: str) -> tuple[str, ...]:
        times = [signs.get(f"{who}: {what}") for what in ("state", "thinking", "answer")]
        shown = [value for value in times if value is not None]
        return (name, *("–" if value is None else f"{value:.1f}" for value in times), f"**{min(shown):.1f}**")

    answer_only = signs["without: answer"]
    table = _table(
        ("client", "a state, s", "a thought, s", "the answer, s", "first visible sign, s"),
        [
            ("shows text only", "–", "–", f"{answer_only:.1f}", f"**{answer_only:.1f}**"),
            row("shows thinking too", "without"),
            row("`foreman chat`, the playground", "with"),
        ],
    )
    return f"""## The first visible sign

A model that is silent for 10 s (a long prompt), then thinks, then answers, through nginx. A frozen spinner and a broken one look alike; so foreman's own
clients ask to see the wait (`X-Foreman-Progress: 1`), get `: working elapsed=1s` as an SSE comment each second, and show thinking as it comes.

{table}"""


def stop(took: float, line: str, counts: Sequence[int]) -> str:
    """`took` in seconds; `counts` at the cancel and after each second."""
    return f"""## Stop

A chat through nginx, left after 25 tokens. The model server's connection was closed {took * 1000:.0f} ms later. foreman's log:

```json
{line}
```

The model server's own count of tokens made: {counts[0]} when its connection closed, {", ".join(str(count) for count in counts[1:])} one and two seconds
later (it makes 50 a second)."""


def flush(rows: Sequence[tuple[str, str, str]], version: str) -> str:
    """Arrival times in seconds."""
    return f"""## Works on localhost, all at once in production

Six tokens, one each 0.3 s, through nginx {version}: when the caller's `read()` returned, in seconds.

{_table(("server behind nginx", "nginx has", "bytes came at"), rows)}

The line that causes the flush is **`proxy_buffering on`**, which nobody wrote: it is nginx's default, and with the HTTP/1.0 that nginx 1.22 speaks to what stands
behind it, or with `gzip on`, nginx collects the whole answer before it passes any of it on. The line that cures it is the answer's own header
**`X-Accel-Buffering: no`**, which every stream of foreman's carries: it turns buffering off for this one answer, gzip or not. The last row shows that it is this header, and
what takes it away. For a server that doesn't send it, `proxy_buffering off;` in the `location` does the same."""


def long_queue(times: str) -> str:
    """Arrival times in seconds."""
    return f"""## A proxy that waits 1 s, a queue of 5 s

A stream that stands behind another for 5 s, through an nginx with `proxy_read_timeout 1s`, foreman with `FOREMAN_HEADERS_AFTER=500ms` and
`FOREMAN_HEARTBEAT=500ms`. Bytes came at (s): {times}. Each heartbeat starts nginx's clock anew; nothing was cut."""


def whole_answers(rows: Sequence[tuple[str, str, str]]) -> str:
    """Client, what came without the setting, what came with it."""
    return f"""## n8n's case: no stream, and a proxy that won't wait

`stream: false`, a model that needs 5 s, an nginx with `proxy_read_timeout 1s`. Without a byte from foreman nginx says 504. With
`FOREMAN_JSON_HEADERS_AFTER=500ms` (50 s is what a proxy with 60 s wants) the 200 goes out early and spaces follow, which JSON allows in front of a value:

{_table(("client", "unset", "`FOREMAN_JSON_HEADERS_AFTER` set"), rows)}

(The clients' own retries are off.)"""


def browser(took: float, made: int, later: int, version: str) -> str:
    """`took` in seconds."""
    return f"""## In a browser

Chromium {version} through [deploy/nginx.conf](deploy/nginx.conf), a page of thirty lines on `/ui/foreman-client.js`:

![A chat in mid-answer: text, the state “answering”, a Stop button](pictures/streaming.png)

From the click on Stop to the closed connection of the model server: {took * 1000:.0f} ms. It had made {made} tokens of 400 by then, and {later} a second later."""


def killed(got: int, expected: int, same: bool, gap: float, resumed: int) -> str:
    """`gap` in seconds."""
    verdict = "the same, chunk by chunk" if same else "**not the same**"
    return f"""## A gateway that is killed

Roles apart, two gateways, 200 tokens at 50 a second; the gateway that streams gets SIGKILL after 50 chunks. `foreman.client` asked the other one for the rest from
the byte it had (`GET /jobs/{{id}}/stream?offset=N`, {resumed} time): {got} chunks of {expected}, {verdict} as the model server's own; the longest pause
between two was {gap * 1000:.0f} ms."""


TAIL: Final = """## What makes it so

- Each line or event of a target is its own HTTP chunk, sent as it comes; no task, queue or JSON per token on the way ([ADR-0016](adr/0016-the-relay.md)).
- `X-Accel-Buffering: no` and `Cache-Control: no-cache` on every stream; heartbeats in words that every client reads over ([ADR-0012](adr/0012-streaming.md)).
- A stream that ends without its end mark is made an error: truncation never looks like success.
- The safe way to try again is to repeat the whole call under the same `Idempotency-Key`: it attaches to the run that still lives, gets the kept answer of one that
  ended, and begins a new one only where there is none. `foreman.client` does that by itself ([ADR-0025](adr/0025-the-client.md)).
"""


def whole(texts: Mapping[str, str], when: str, commit: str, python: str) -> str:
    """The page."""
    head = HEAD.format(when=when, commit=commit, python=python)
    return head + "\n\n".join(texts.values()) + "\n\n" + TAIL
