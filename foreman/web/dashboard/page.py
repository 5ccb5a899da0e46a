"""The overview as HTML: targets, lanes, waiting and running jobs, the last failures.

web/ops_api.py hands me values and serves what I return. Every value that came from outside goes through `_cell` or
`escape`; I load nothing from anywhere and need no JavaScript: the page reloads itself each few seconds.
"""

from __future__ import annotations

import time
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from foreman.core.jobs import Job

PATH: Final = "/ui"
REFRESH: Final = 5
"""Seconds between two reloads."""
STYLE: Final = resources.files(__package__).joinpath("style.css").read_text()


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def overview(
    state: dict[str, Any],
    waiting: Sequence[Job],
    failures: Sequence[Job],
    reasons: Sequence[str],
    *,
    refresh: bool = True,
) -> str:
    """The whole page.

    Args:
        state: as `/ops/state` gives it.
        waiting: queued jobs, next to start first.
        failures: failed jobs, newest first.
        reasons: why the pool is not at its best.
        refresh: reload by itself.
    """
    jobs = state["jobs"]
    running = [{**job, "target": target["name"]} for target in state["targets"] for job in target["running"]]
    parts = [
        _health(reasons),
        _numbers([(name, jobs[name]) for name in ("queued", "loading", "working", "done", "failed", "cancelled")]),
        _section("Targets", _targets(state["targets"], _models(state))),
        _section("Lanes", _lanes(state["lanes"])),
        _section("Running", _running(running)),
        _section("Waiting", _waiting(waiting, jobs["queued"])),
        _section("Last failures", _failures(failures)),
    ]
    other = f'<a href="{PATH}?refresh=off">pause</a>' if refresh else f'<a href="{PATH}">resume</a>'
    how = f"reloads each {REFRESH} s" if refresh else "paused"
    foot = f"<footer>foreman {escape(state['version'])} · {escape(state['now'])} · {how} ({other})</footer>"
    return _document("foreman", "".join(parts) + foot, refresh=refresh)


def sign_in(message: str) -> str:
    """The form that asks for the token once."""
    said = f'<p class="bad" role="alert">{escape(message)}</p>' if message else ""
    form = (
        f'<form method="post" action="{PATH}"><label for="token">Token</label> '
        '<input id="token" name="token" type="password" autocomplete="current-password" required autofocus> '
        "<button>Sign in</button></form>"
        "<p>FOREMAN_TOKEN, or FOREMAN_READ_TOKEN to look only. It is kept in a cookie that no script can read.</p>"
    )
    return _document("foreman · sign in", f"<h2>Sign in</h2>{said}{form}", refresh=False)


def token_of(form: bytes) -> str | None:
    """The token in a posted form."""
    values = parse_qs(form.decode("utf-8", "replace")).get("token")
    return values[0].strip() if values and values[0].strip() else None


def _document(title: str, body: str, *, refresh: bool) -> str:
    again = f'<meta http-equiv="refresh" content="{REFRESH}">' if refresh else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{again}'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>foreman</h1><main>{body}</main></body></html>"
    )


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
