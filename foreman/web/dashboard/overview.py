"""The first view as its first paint: targets, lanes, waiting and running jobs, the last failures.

web/dashboard/site.py hands me values. The scripts (overview.js) take over what I wrote and keep it live from
`/ops/events`; where none run, I am what one sees.
"""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING, Any, Final

from foreman.web.dashboard import markup
from foreman.web.dashboard.markup import Markup, job_link, join, section, span, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from foreman.core.jobs import Job
    from foreman.web.dashboard.page import Frame

LANES: Final = 200
"""Rows at most."""
WHY: Final = {
    "room": "there is a free place",
    "empty": "nothing else is left",
    "due": "its turn has come",
    "class": "a higher class waits",
    "pin": "it is pinned",
}
"""Why a lane is next, for a person."""
_HEADS: Final = (
    ("Lane", None, None),
    ("Waiting", "n", None),
    ("Oldest wait", "n", "of the longest it may wait for its turn"),
    ("Running", "n", None),
    ("ETA", "n", "until the last of its jobs works"),
    ("TTFT", "n", "time to the first token, of the last runs: median / 95 of 100"),
    ("TPOT", "n", "time per token from there on: median / 95 of 100"),
    ("Errors", "n", "of the last runs"),
    ("Callers", None, "of the last runs"),
    ("State", "acts", None),
)
"""The columns of the live table of lanes: title, class, what it means."""
_PAUSED: Final = "It is paused."
_DEEDS: Final = {
    "pause": ("Pause", "pause", "Pause {}? What runs there runs on to its end; nothing new starts.", _PAUSED, "", "1"),
    "free": (
        *("Free this GPU", "pause?unload=true"),
        "Free {}? What runs there runs on to its end; then all that foreman loaded is unloaded, and stays out.",
        *("It is being freed.", "", "1"),
    ),
    "hold": ("Pause", "pause", "Pause the lane {}? What runs runs on; nothing more of it starts.", _PAUSED, "", "1"),
    "resume": ("Resume", "resume", None, "It goes on.|It was not paused.", "", None),
    "clear": (
        *("Clear", "clear", "Cancel what waits in {}, {n} now? It can't be undone, and its callers are told."),
        *("{cancelled} cancelled, {left} left.", "danger", None),
    ),
}
"""What operators can do there: button, end of the path, question, what is told when it was done (behind a bar: when there
was nothing to do), class, whether for how long is asked. {} is the name, {n} how many wait; in what is told, fields of the answer."""


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
        Markup("<h1>Overview</h1>"),
        health(reasons),
        markup.numbers(
            [(name, jobs[name]) for name in ("queued", "loading", "working", "done", "failed", "cancelled")]
        ),
        section("Targets", _targets(state["targets"], _models(state))),
        section("Swaps", _ledger(state["ledger"])),
        section("Lanes", _lanes(state["lanes"], _models(state))),
        section("Running", _running(running)),
        section("Waiting", _waiting(waiting, jobs["queued"])),
        section("Last failures", _failures(failures)),
        Markup(f'<p class="none">foreman {escape(state["version"])} · {escape(state["now"])}</p>'),
    ]
    return frame.document(
        "",
        join(*parts),
        {"state": state, "words": {"why": WHY, "lanes": _HEADS, "deeds": _DEEDS}},
    )


def health(reasons: Sequence[str]) -> Markup:
    """Whether all is well, or what is not."""
    if not reasons:
        return Markup('<p class="ok" role="status"><span aria-hidden="true">✓</span> all is well</p>')
    items = "".join(f"<li>{markup.plain(reason)}</li>" for reason in reasons)
    return Markup(f'<div class="bad" role="status"><p>! degraded</p><ul>{items}</ul></div>')


def _models(state: dict[str, Any]) -> dict[str, str]:
    """Lane → the model's name, which says more to a reader than a digest."""
    held = [held for target in state["targets"] for held in (*target["resident"], *target["running"])]
    return {
        entry["lane"]: entry["model"].removesuffix(":latest") for entry in (*held, *state["lanes"]) if entry["model"]
    }


def _targets(targets: Iterable[dict[str, Any]], models: dict[str, str]) -> Markup:
    def next_lane(target: dict[str, Any]) -> Markup | None:
        following = target["next"]
        if not following:
            return None
        lane = following.get("lane")
        why = WHY.get(str(following.get("reason")), following.get("reason"))
        return join(markup.name(models.get(lane, lane)), f": {why}")

    rows = (
        (
            markup.name(target["name"]),
            join(markup.state(target["state"]), f": {target['error']}" if target["error"] else None),
            join(*(markup.name(models.get(held["lane"], str(held["lane"]))) for held in target["resident"])) or None,
            markup.name(models.get(target["loading"], target["loading"])),
            len(target["running"]),
            next_lane(target),
            target["url"],
        )
        for target in targets
    )
    heads = ("Target", "State", "Resident", "Loading", "Running#", "Next", "Address")
    return table("Targets", heads, rows, "No worker has announced a target yet.")


def _ledger(ledger: dict[str, Any]) -> Markup:
    told = ("Swaps done", "swaps"), ("In order of arrival", "fifo_swaps")
    spent = ("Saved", "seconds_saved"), ("Paid for fairness", "seconds_for_fairness")
    counts = [(title, ledger[key]) for title, key in told]
    return markup.facts([*counts, *((title, span(ledger[key])) for title, key in spent)])


def _lanes(lanes: Sequence[dict[str, Any]], models: dict[str, str]) -> Markup:
    rows = (
        (
            markup.name(models.get(lane["lane"])),
            markup.name(lane["lane"]),
            lane["slot"],
            f"{lane['depth']:,}",
            span(lane["oldest_wait_seconds"]),
            span(lane["bound_seconds"]),
            lane["running"],
            span(lane["eta_seconds"]),
            "paused" if lane["paused"] else "open",
        )
        for lane in lanes[:LANES]
    )
    heads = ("Model", "Lane", "Slot", "Waiting#", "Oldest#", "Bound#", "Running#", "ETA#", "State")
    more = Markup(f'<p class="none">… and {len(lanes) - LANES:,} more</p>') if len(lanes) > LANES else None
    return join(table("Lanes", heads, rows, "Nothing is waiting."), more)


def _running(jobs: Iterable[dict[str, Any]]) -> Markup:
    rows = (
        (
            job_link(job["job_id"]),
            markup.name(job["model"]),
            job["endpoint"],
            markup.state(job["state"]),
            markup.name(job["target"]),
            markup.ago_of(job["since"]),
            job["tokens"],
            None if job["tokens_per_second"] is None else f"{job['tokens_per_second']:.1f}",
        )
        for job in jobs
    )
    heads = ("Job", "Model", "Endpoint", "State", "Target", "Since", "Tokens#", "Tokens/s#")
    return table("Running", heads, rows, "Nothing is running.")


def _waiting(jobs: Sequence[Job], queued: int) -> Markup:
    now = time.time()
    rows = (
        (
            number,
            job_link(job.id),
            markup.name(job.model),
            job.endpoint,
            job.priority.word,
            job.caller,
            span(now - job.created_at),
        )
        for number, job in enumerate(jobs, 1)
    )
    heads = ("No.#", "Job", "Model", "Endpoint", "Class", "Caller", "Waits#")
    more = Markup(f'<p class="none">… and {queued - len(jobs):,} more</p>') if queued > len(jobs) and jobs else None
    return join(table("Waiting", heads, rows, "Nothing is waiting."), more)


def _failures(jobs: Iterable[Job]) -> Markup:
    rows = (
        (
            job_link(job.id),
            markup.name(job.model),
            job.target,
            (job.error or {}).get("code"),
            (job.error or {}).get("message"),
            markup.ago(job.finished_at),
        )
        for job in jobs
    )
    return table(
        "Last failures", ("Job", "Model", "Target", "Code", "Message", "When"), rows, "No failure is on record."
    )
