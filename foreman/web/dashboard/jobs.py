"""Two views: the list of jobs with its filters, and one job with all that is known of it.

web/dashboard/reading.py asks the store and hands me records; what comes back is HTML. Requests and answers are not in it:
the page's script asks for them when somebody opens them, and a reader is not offered them.
"""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlencode

from foreman.core.jobs import TERMINAL, Job, State, Surface
from foreman.protocols.job_request import ENDPOINTS as AGAIN
from foreman.protocols.paths import INFERENCE, SHOW
from foreman.web.dashboard import markup
from foreman.web.dashboard.markup import PATH, Markup, cell, job_link, join, section, span, table

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from foreman.store.deliveries import Tried
    from foreman.store.records import Event
    from foreman.web.dashboard.page import Frame
    from foreman.web.pool.outlook import Outlook

_COLOURS: Final = ("c5", "c1", "c0", "c2")
_PHASES: Final = (("Queued", "queued_ms"), ("Loading", "loading_ms"), ("First token", "ttft_ms"))


@dataclass(frozen=True, slots=True)
class Filters:
    """What the list is asked for, as it stands in the URL; empty: any."""

    id: str = ""
    """The beginning of an id."""
    state: str = ""
    model: str = ""
    endpoint: str = ""
    surface: str = ""
    caller: str = ""

    def url(self, **more: str) -> str:
        """The list's address with these filters."""
        given = {one.name: getattr(self, one.name) for one in fields(self)} | more
        query = urlencode({name: value for name, value in given.items() if value})
        return f"{PATH}/jobs{'?' if query else ''}{query}"


def job_list(
    frame: Frame, filters: Filters, jobs: Sequence[Job], older: str | None, models: Sequence[str], complaint: str | None
) -> str:
    """The list, newest first.

    Args:
        frame: What stands around it.
        filters: As they were asked for.
        jobs: What was found.
        older: The cursor of the next page, if there is one.
        models: Names to choose from.
        complaint: What was wrong with the filters.
    """
    now = time.time()
    rows = (
        (
            job_link(job.id),
            markup.state(job.state),
            markup.name(job.model),
            job.endpoint,
            job.priority.word,
            markup.name(job.caller),
            markup.name(job.target),
            markup.ago(job.created_at),
            span((job.claimed_at or job.finished_at or now) - job.created_at),
            markup.milliseconds(job.timings.get("ttft_ms")),
            _total(job, now),
            job.usage.get("completion_tokens"),
            (job.error or {}).get("code") if job.state is State.FAILED else None,
        )
        for job in jobs
    )
    heads = (
        *("Job", "State", "Model", "Endpoint", "Class", "Caller", "Target", "Came"),
        *("Waited#", "TTFT#", "Total#", "Tokens#", "Error"),
    )
    nothing = complaint or ("No job fits." if filters != Filters() else "No job is on record.")
    pages = Markup(
        f'<p class="acts">{markup.link(filters.url(), "newest") if jobs else ""}'
        f"{markup.link(filters.url(cursor=older), 'older') if older else ''}</p>"
    )
    body = join(
        Markup("<h1>Jobs</h1>"), _form(filters, models), table("Jobs, newest first", heads, rows, nothing), pages
    )
    return frame.document("jobs", body)


def _form(filters: Filters, models: Sequence[str]) -> Markup:
    def select(name: str, title: str, chosen: str, values: Sequence[str]) -> str:
        known = [*values, *([chosen] if chosen and chosen not in values else [])]
        options = "".join(
            f'<option value="{cell(value)}"{" selected" if value == chosen else ""}>{cell(value)}</option>'
            for value in known
        )
        return f'<label>{title}<select name="{name}"><option value="">any</option>{options}</select></label>'

    def text(name: str, title: str, value: str, more: str = "") -> str:
        given = cell(value) if value else ""
        return f'<label>{title}<input name="{name}" value="{given}" autocomplete="off" {more}></label>'

    names = "".join(f'<option value="{cell(name)}"></option>' for name in models)
    return Markup(
        f'<form class="filters" method="get" action="{PATH}/jobs" role="search">'
        + text("id", "Id begins with", filters.id, 'type="search" spellcheck="false"')
        + select("state", "State", filters.state, list(State))
        + text("model", "Model", filters.model, 'list="models"')
        + f'<datalist id="models">{names}</datalist>'
        + select("endpoint", "Endpoint", filters.endpoint, (*INFERENCE, SHOW))
        + select("surface", "Surface", filters.surface, list(Surface))
        + text("caller", "Caller", filters.caller)
        + f"<button>Filter</button>{markup.link(f'{PATH}/jobs', 'clear')}</form>"
    )


def _total(job: Job, now: float) -> str | None:
    if job.state in TERMINAL:
        return span((job.finished_at or job.changed_at) - job.created_at)
    return span(now - job.claimed_at) if job.claimed_at else None


# ---------------------------------------------------------------------------- one job


def job_detail(
    frame: Frame,
    job: Job,
    outlook: Outlook | None,
    events: Sequence[Event],
    tried: Sequence[Tried] | None,
    *,
    kept: bool,
    again: Container[str] = (),
) -> str:
    """Everything about one job.

    Args:
        frame: What stands around it.
        job: Its record.
        outlook: Of a job that waits or loads.
        events: Its transitions, oldest first.
        tried: Its webhook log; None where the one who looks may not see it.
        kept: Its request is kept: without it nothing can be done again.
        again: The deliveries that can be sent again.
    """
    parts = [
        Markup(f'<div class="head"><h1>Job <span class="id">{cell(job.id)}</span></h1>{markup.state(job.state)}</div>'),
        _acts(frame, job, kept=kept),
        _error(job),
        _waits(outlook),
        section("What it is", _facts(job)),
        section("Times", _times(job)),
        section("Transitions", _events(events)),
        section("Request and answer", _contents(frame, job, kept=kept)),
    ]
    if tried is not None and (tried or job.state_webhook_url):
        parts.append(section("Webhook", deliveries(frame, tried, again, job.state_webhook_url)))
    return frame.document("jobs", join(*parts), title=f"Job {job.id}")


def _acts(frame: Frame, job: Job, *, kept: bool) -> Markup | None:
    if not frame.acts:
        return None
    path, buttons = f"/jobs/{job.id}", []
    if job.state not in TERMINAL:
        question = f"Cancel this job? It is {job.state}."
        cancel = markup.button(
            "Cancel", f"DELETE {path}", ask=question, said="It is {state}.", kind="danger", ident="cancel"
        )
        buttons.append(cancel)
    elif kept and job.endpoint in AGAIN:
        buttons.append(markup.button("Retry", f"POST {path}/retry", said="A new job does it again:"))
    if kept:
        buttons.append(Markup(f'<button type="button" data-curl="{PATH}{path}/curl">Copy as curl</button>'))
    return Markup(f'<p class="acts">{"".join(buttons)}</p>') if buttons else None


def as_curl(job: Job, request: bytes, *, token: bool) -> str:
    """The same call for a terminal. ORIGIN stands for the address by which the browser knows this gateway."""
    path = "/jobs" if job.surface is Surface.ASYNC else job.endpoint
    shown = ' \\\n  -H "Authorization: Bearer $FOREMAN_TOKEN"' if token else ""
    return f"curl ORIGIN{path}{shown} \\\n  -d {shlex.quote(request.decode(errors='replace'))}"


def _error(job: Job) -> Markup | None:
    if not job.error:
        return None
    if job.state is State.CANCELLED:
        return Markup(f'<p class="soft">{cell(job.error.get("message"))}</p>')
    again = "The same may succeed later." if job.error.get("retryable") else "The same would fail again."
    return Markup(
        f'<div class="bad"><p><b>{cell(job.error.get("code"))}</b></p>'
        f"<p>{cell(job.error.get('message'))}</p><small>{again}</small></div>"
    )


def _waits(outlook: Outlook | None) -> Markup | None:
    if outlook is None or not outlook.waiting_for:
        return None
    place = None if outlook.position is None else f" · position {outlook.position:,}"
    eta = None if outlook.eta_seconds is None else f" · about {span(outlook.eta_seconds)} until it works"
    return join(Markup("<p>Waits for "), outlook.waiting_for, place, eta, Markup("</p>"))


def _facts(job: Job) -> Markup:
    always = (
        ("Model", markup.name(job.model)),
        ("Lane", markup.name(job.lane)),
        ("Endpoint", job.endpoint),
        ("Surface", job.surface.value),
        ("Class", job.priority.word),
        ("Caller", markup.name(job.caller)),
        ("Target", markup.name(job.target)),
        ("Worker", markup.name(job.worker)),
        ("Attempt", job.attempt),
        ("Prompt tokens", job.usage.get("prompt_tokens")),
        ("Completion tokens", job.usage.get("completion_tokens")),
    )
    seldom = (
        ("Deadline", markup.moment(job.deadline)),
        ("Not before", markup.moment(job.not_before)),
        ("Retry of", job_link(job.retry_of, whole=True) if job.retry_of else None),
        ("Metadata", markup.code(json.dumps(job.metadata, ensure_ascii=False)) if job.metadata else None),
    )
    return markup.facts((*always, *((title, value) for title, value in seldom if value is not None)))


def _times(job: Job) -> Markup:
    measured = job.timings
    pairs = [
        ("Came", markup.moment(job.created_at)),
        ("Due", markup.moment(job.due)),
        ("Began to work", markup.moment(job.started_at)),
        ("Ended", markup.moment(job.finished_at)),
        *((title, markup.milliseconds(measured.get(key))) for title, key in _PHASES),
        ("Per token", markup.milliseconds(measured.get("tpot_ms"))),
        ("In all", markup.milliseconds(measured.get("total_ms"))),
    ]
    return join(_strip(measured), markup.facts(pairs))


def _strip(measured: dict[str, float]) -> Markup | None:
    """The phases of an ended job as one bar; the numbers stand below it."""
    total = measured.get("total_ms")
    if not total:
        return None
    shares = [(title, max(0.0, measured.get(key) or 0.0)) for title, key in _PHASES]
    shares.append(("Answer", max(0.0, total - sum(share for _, share in shares))))
    whole = sum(share for _, share in shares) or 1.0
    pieces, at = [], 0.0
    for number, (title, share) in enumerate(shares):
        width = 1000 * share / whole
        pieces.append(
            f'<rect class="{_COLOURS[number]}" x="{at:.1f}" y="0" width="{width:.1f}" height="14">'
            f"<title>{title}: {markup.milliseconds(share)}</title></rect>"
        )
        at += width
    legend = "".join(f'<li class="{_COLOURS[number]}"><i></i>{title}</li>' for number, (title, _) in enumerate(shares))
    return Markup(
        f'<svg class="strip" viewBox="0 0 1000 14" preserveAspectRatio="none" aria-hidden="true">{"".join(pieces)}</svg>'
        f'<ul class="chips">{legend}</ul>'
    )


def _events(events: Sequence[Event]) -> Markup:
    before = events[0].time if events else 0.0
    rows = []
    for event in events:
        rows.append(
            (
                event.seq,
                markup.state(event.state),
                markup.moment(event.time),
                f"+{span(event.time - before)}",
                event.attempt,
                markup.name(event.worker),
                event.reason,
            )
        )
        before = event.time
    heads = ("No.#", "State", "Time (UTC)", "After#", "Attempt#", "Worker", "Reason")
    return table("Transitions", heads, rows, "Its transitions are kept no longer.")


def _contents(frame: Frame, job: Job, *, kept: bool) -> Markup:
    if not frame.acts:
        return Markup('<p class="none">This token may look at jobs, not at what they say.</p>')
    path = f"/jobs/{job.id}"
    links = not frame.closed  # a cookie alone opens no request
    parts = [_hidden("request", "Show the request", f"{path}/request", links=links) if kept else _none(job)]
    for artifact in job.artifacts:
        title = f"Show the artifact {artifact.name} ({artifact.size:,} bytes)"
        parts.append(_hidden(artifact.name, title, f"{path}/artifacts/{quote(artifact.name, safe='')}", links=links))
    if not job.artifacts:
        why = "No answer is kept." if job.state in TERMINAL else "There is no answer yet."
        parts.append(Markup(f'<p class="none">{why}</p>'))
    return join(*parts)


def _none(job: Job) -> Markup:
    why = "; a sync call without Idempotency-Key or `finish` leaves none" if job.surface is Surface.SYNC else ""
    return Markup(f'<p class="none">Its request is not kept{why}: it can only be sent anew.</p>')


def _hidden(key: str, title: str, path: str, *, links: bool) -> Markup:
    bare = markup.link(path, path) if links else f"It takes JavaScript, or the token: {cell(f'GET {path}')}."
    return Markup(
        f'<details data-key="{cell(key)}" data-load="{cell(path)}"><summary>{cell(title)}</summary>'
        f'<pre data-keep tabindex="0"></pre><noscript>{bare}</noscript></details>'
    )


def send_again(frame: Frame, delivery: str, again: Container[str]) -> Markup | None:
    """The button that does it; where nothing is left to send, that."""
    if not frame.acts:
        return None
    if delivery not in again:
        why = "an ended delivery is kept for a day, and as long as its job's answer"
        return Markup(f'<small class="soft" title="{why}">kept no longer</small>')
    said = "It is sent again.|It is being sent already, or an earlier event's turn comes first."
    return markup.button("Send again", f"POST /deliveries/{delivery}/redeliver", said=said)


def deliveries(frame: Frame, tried: Sequence[Tried], again: Container[str], url: str | None = None) -> Markup:
    """A webhook log: what was tried, what came back, and a way to send it again."""
    rows = (
        (
            markup.moment(one.time),
            markup.code(one.id),
            f"job.{one.state}",
            one.attempt,
            markup.state("done" if one.error is None else "failed", "taken" if one.error is None else "not taken"),
            one.status,
            markup.milliseconds(None if one.duration is None else one.duration * 1000),
            one.error,
            send_again(frame, one.id, again),
        )
        for one in tried
    )
    heads = ("Time (UTC)", "Delivery", "Event", "Attempt#", "Outcome", "Status#", "Took#", "Why", "")
    to = join(Markup("<p>To "), markup.name(url), Markup("</p>")) if url else None
    return join(to, table("Attempts", heads, rows, "Nothing was tried yet."))
