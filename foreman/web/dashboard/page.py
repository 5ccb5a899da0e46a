"""The page as HTML, as its first paint and for those without JavaScript: a frame, and the overview in it.

web/dashboard/site.py hands me values and serves what I return. Every value that came from outside goes through `_cell`
or `escape`; scripts take over what I wrote, and where none run the page reloads itself each few seconds.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from foreman.core.jobs import Job

PATH: Final = "/ui"
REFRESH: Final = 5
"""Seconds between two reloads where no script runs."""
STYLE: Final = resources.files(__package__).joinpath("style.css").read_text()
VIEWS: Final = {
    "": "Overview",
    "jobs": "Jobs",
    "failures": "Failures",
    "webhooks": "Webhooks",
    "playground": "Playground",
    "health": "Health",
    "audit": "Audit",
}
"""The views by the last part of their path."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around every view."""

    stamp: str
    """Part of the files' path: it changes with them."""
    role: str
    """operator, named or reader: the scripts show what it may do; the server decides."""
    name: str | None
    """Of the token."""
    closed: bool
    """A token is asked for, so there is something to sign out of."""

    def document(self, view: str, body: str, boot: dict[str, Any]) -> str:
        """The whole page.

        Args:
            view: The last part of its path.
            body: HTML.
            boot: What the scripts begin with, beside who looks.
        """
        files = f"{PATH}/static/{self.stamp}"
        links = "".join(
            f'<a href="{PATH}{"/" if name else ""}{name}"{" aria-current=page" if name == view else ""}>{title}</a>'
            for name, title in VIEWS.items()
        )
        given = {"role": self.role, "name": self.name, "closed": self.closed, **boot}
        # In a script element only `</script` and `<!--` could end or change anything.
        data = json.dumps(given, separators=(",", ":")).replace("<", "\\u003c")
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<meta name="color-scheme" content="light dark"><title>{VIEWS[view]} · foreman</title>'
            f'<link rel="icon" href="{files}/icon.svg"><link rel="stylesheet" href="{files}/style.css">'
            f'<script type="module" src="{files}/app.js"></script>'
            f'<noscript><meta http-equiv="refresh" content="{REFRESH}"></noscript></head><body>'
            '<a class="skip" href="#main">Skip to content</a>'
            f'<header><a class="brand" href="{PATH}">foreman</a><nav aria-label="Views">{links}</nav>'
            f'<div id="tools"></div></header><main id="main" tabindex="-1">{body}</main>'
            f'<script type="application/json" id="boot">{data}</script></body></html>'
        )


def overview(
    frame: Frame,
    state: dict[str, Any],
    waiting: Sequence[Job],
    failures: Sequence[Job],
    reasons: Sequence[str],
) -> str:
    """The first view.

    Args:
        frame: What stands around it.
        state: As `/ops/state` gives it.
        waiting: Queued jobs, next to start first.
        failures: Failed jobs, newest first.
        reasons: Why the pool is not at its best.
    """
    jobs = state["jobs"]
    running = [{**job, "target": target["name"]} for target in state["targets"] for job in target["running"]]
    parts = [
        "<h1>Overview</h1>",
        _health(reasons),
        _numbers([(name, jobs[name]) for name in ("queued", "loading", "working", "done", "failed", "cancelled")]),
        _section("Targets", _targets(state["targets"], _models(state))),
        _section("Lanes", _lanes(state["lanes"])),
        _section("Running", _running(running)),
        _section("Waiting", _waiting(waiting, jobs["queued"])),
        _section("Last failures", _failures(failures)),
        f"<footer>foreman {escape(state['version'])} · {escape(state['now'])}</footer>",
    ]
    return frame.document("", "".join(parts), {"state": state, "reasons": list(reasons)})


def sign_in(message: str) -> str:
    """The form that asks for the token once."""
    said = f'<p class="bad" role="alert">{escape(message)}</p>' if message else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><title>Sign in · foreman</title>'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body class="door"><main><h1>foreman</h1>{said}'
        f'<form method="post" action="{PATH}"><label for="token">Token</label> '
        '<input id="token" name="token" type="password" autocomplete="current-password" required autofocus> '
        "<button>Sign in</button></form>"
        "<p>FOREMAN_TOKEN, or FOREMAN_READ_TOKEN to look only. It is kept in a cookie that no script can read.</p>"
        "</main></body></html>"
    )


def token_of(form: bytes) -> str | None:
    """The token in a posted form."""
    values = _values(form).get("token")
    return values[0].strip() if values and values[0].strip() else None


def leaves(form: bytes) -> bool:
    """Whether a posted form is the one that signs out."""
    return "leave" in _values(form)


def _values(form: bytes) -> dict[str, list[str]]:
    return parse_qs(form.decode("utf-8", "replace"))


def _health(reasons: Sequence[str]) -> str:
    if not reasons:
        return '<p class="ok" role="status">✓ all is well</p>'
    items = "".join(f"<li>{escape(reason)}</li>" for reason in reasons)
    return f'<div class="bad" role="status"><p>! degraded</p><ul>{items}</ul></div>'


def _numbers(pairs: Iterable[tuple[str, int]]) -> str:
    cells = "".join(f"<div><dt>{name}</dt><dd>{number}</dd></div>" for name, number in pairs)
    return f'<dl class="numbers">{cells}</dl>'


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]], nothing: str) -> str:
    body = "".join("<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row) + "</tr>" for row in rows)
    if not body:
        return f'<p class="none">{escape(nothing)}</p>'
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: object) -> str:
    if isinstance(value, Markup):
        return value
    return "–" if value is None else escape(str(value))


def _models(state: dict[str, Any]) -> dict[str, str]:
    """Lane → the model's name, which says more to a reader than a digest."""
    held = [held for target in state["targets"] for held in (*target["resident"], *target["running"])]
    return {entry["lane"]: entry["model"] for entry in (*held, *state["lanes"]) if entry["model"]}


def _targets(targets: Iterable[dict[str, Any]], models: dict[str, str]) -> str:
    marks = {"up": "✓ up", "down": "✗ down", "paused": "‖ paused"}

    def state(target: dict[str, Any]) -> Markup:
        kind = {"up": "ok", "down": "bad"}.get(target["state"], "idle")
        why = f": {escape(target['error'])}" if target["state"] == "down" and target["error"] else ""
        return Markup(f'<span class="{kind}">{escape(marks.get(target["state"], target["state"]))}{why}</span>')

    def next_lane(target: dict[str, Any]) -> str | None:
        following = target["next"]
        if not following:
            return None
        return f"{models.get(following.get('lane'), following.get('lane'))} ({following.get('reason')})"

    rows = (
        (
            target["name"],
            state(target),
            ", ".join(str(held["model"] or held["lane"]) for held in target["resident"]) or None,
            models.get(target["loading"], target["loading"]),
            len(target["running"]),
            next_lane(target),
            target["url"],
        )
        for target in targets
    )
    heads = ("Target", "State", "Resident", "Loading", "Running", "Next", "Address")
    return _table(heads, rows, "No worker has announced a target yet.")


def _lanes(lanes: Iterable[dict[str, Any]]) -> str:
    rows = (
        (
            lane["model"],
            lane["lane"],
            lane["slot"],
            lane["depth"],
            _seconds(lane["oldest_wait_seconds"]),
            lane["running"],
            "paused" if lane["paused"] else "open",
        )
        for lane in lanes
    )
    return _table(("Model", "Lane", "Slot", "Waiting", "Oldest", "Running", "State"), rows, "Nothing is waiting.")


def _running(jobs: Iterable[dict[str, Any]]) -> str:
    rows = (
        (
            Markup(f"<code>{escape(job['job_id'])}</code>"),
            job["model"],
            job["endpoint"],
            job["state"],
            job["target"],
            job["since"],
            job["tokens"],
            None if job["tokens_per_second"] is None else f"{job['tokens_per_second']:.1f}",
        )
        for job in jobs
    )
    heads = ("Job", "Model", "Endpoint", "State", "Target", "Since", "Tokens", "Tokens/s")
    return _table(heads, rows, "Nothing is running.")


def _waiting(jobs: Sequence[Job], queued: int) -> str:
    rows = (
        (
            number,
            Markup(f"<code>{escape(job.id)}</code>"),
            job.model,
            job.endpoint,
            job.priority.word,
            job.caller,
            _seconds(time.time() - job.created_at),
        )
        for number, job in enumerate(jobs, 1)
    )
    heads = ("#", "Job", "Model", "Endpoint", "Class", "Caller", "Waits")
    more = f'<p class="none">… and {queued - len(jobs)} more</p>' if queued > len(jobs) and jobs else ""
    return _table(heads, rows, "Nothing is waiting.") + more


def _failures(jobs: Iterable[Job]) -> str:
    rows = (
        (
            Markup(f"<code>{escape(job.id)}</code>"),
            job.model,
            job.target,
            (job.error or {}).get("code"),
            (job.error or {}).get("message"),
            _seconds(time.time() - job.finished_at) if job.finished_at else None,
        )
        for job in jobs
    )
    return _table(("Job", "Model", "Target", "Code", "Message", "Ago"), rows, "No failure is on record.")


def _seconds(span: float) -> str:
    span = max(0.0, span)
    if span < 60:
        return f"{span:.1f} s"
    return f"{span / 60:.1f} min" if span < 3600 else f"{span / 3600:.1f} h"
