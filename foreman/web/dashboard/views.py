"""Four views: failures by their code, webhooks' receivers, health with the settings in force, and the log of actions.

web/dashboard/reading.py asks the store and hands me values; what comes back is HTML. What a code means and what to do
about it stands here once, for the one who has to act on it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from foreman.web.dashboard import markup
from foreman.web.dashboard.jobs import send_again
from foreman.web.dashboard.markup import PATH, Markup, job_link, join, section, table
from foreman.web.dashboard.overview import health as reasons_of
from foreman.web.ops.operators_api import came_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from foreman.core.jobs import Job
    from foreman.store.deliveries import Receiver, Tried
    from foreman.store.operators import Deed
    from foreman.web.dashboard.page import Frame

EXAMPLES: Final = 5
"""Jobs named per code."""
LATE: Final = 250.0
"""Milliseconds of loop lag from which on it is shown as bad."""
MEANING: Final = {
    "bad_request": "The caller sent something that makes no sense. Its sender must change it.",
    "model_not_found": "No target has the model. Pull it, or correct its name.",
    "payload_too_large": "The request is above FOREMAN_MAX_BODY.",
    "deadline_exceeded": "It could not end in time: too much ahead, or a deadline too short. Look at the lanes' waits.",
    "upstream_error": "The target answered with an error of its own. Its words are in the job.",
    "upstream_unreachable": "The target took no connection, or reset it. Look at the target's card and its own log.",
    "upstream_truncated": "The target's answer ended in the middle. Look for a crash or a full memory in its log.",
    "interrupted": "The worker was lost after the first byte. Callers may send it again.",
    "poison": "Three workers were lost over it. Look at the workers' logs before anybody retries it.",
    "stalled": "The target said nothing for FOREMAN_UPSTREAM_TIMEOUT. It may hang, or the limit is too short.",
    "queue_full": "FOREMAN_MAX_QUEUE or the store's limit was reached. Slow the callers down, or raise it.",
    "store_unavailable": "The store did not answer. See Health.",
    "shutting_down": "The gateway was stopping. Callers may send it again.",
}


@dataclass(frozen=True, slots=True)
class Group:
    """The failures of one code."""

    code: str
    count: int
    models: Sequence[str]
    jobs: Sequence[Job]
    """The newest of them."""


def grouped(failed: Iterable[Job]) -> list[Group]:
    """Failures by their code, newest first within each."""
    by_code: dict[str, list[Job]] = defaultdict(list)
    for job in failed:
        by_code[str((job.error or {}).get("code"))].append(job)
    return [
        Group(code, len(jobs), list(dict.fromkeys(job.model for job in jobs))[:EXAMPLES], jobs[:EXAMPLES])
        for code, jobs in by_code.items()
    ]


def failures(frame: Frame, groups: Sequence[Group], looked: int, total: int | None) -> str:
    """The failures on record, grouped by code, the most frequent first.

    Args:
        frame: What stands around it.
        groups: One per code.
        looked: How many failures are in them.
        total: Since the pool began; None where that is not told.
    """
    parts = [Markup("<h1>Failures</h1>")]
    if not looked:
        parts.append(Markup('<p class="ok">✓ No failure is on record.</p>'))
    else:
        of = "" if total is None or total == looked else f" of {total:,} since the pool began"
        link = markup.link(f"{PATH}/jobs?state=failed", "all that are kept, one by one")
        parts.append(Markup(f'<p class="soft">The last {looked:,}{of}; {link}.</p>'))
    parts += [_group(group) for group in sorted(groups, key=lambda group: -group.count)]
    return frame.document("failures", join(*parts))


def _group(group: Group) -> Markup:
    code = markup.cell(group.code)
    rows = (
        (
            job_link(job.id),
            markup.name(job.model),
            markup.name(job.target),
            markup.name(job.caller),
            (job.error or {}).get("message"),
            markup.ago(job.finished_at),
        )
        for job in group.jobs
    )
    models = Markup(", ").join(markup.name(name) for name in group.models)
    title = Markup(f'<h2><span class="bad">{code}</span> <small>{group.count:,}</small></h2>')
    last = markup.ago(group.jobs[0].finished_at) if group.jobs else None
    head = join(
        Markup('<div class="head">'),
        title,
        last and join(Markup('<span class="soft">last '), last, Markup("</span>")),
        Markup("</div>"),
    )
    return join(
        Markup(f'<section data-key="{code}">'),
        head,
        Markup(f"<p>{markup.cell(MEANING.get(group.code, 'See the message.'))}</p>"),
        Markup(f'<p class="soft">Models: {models}</p>'),
        table(
            f"The last failures with {group.code}",
            ("Job", "Model", "Target", "Caller", "Message", "When"),
            rows,
            "The jobs are kept no longer.",
        ),
        Markup("</section>"),
    )


# ---------------------------------------------------------------------------- webhooks


def webhooks(
    frame: Frame,
    receivers: Sequence[Receiver],
    tried: Sequence[tuple[str, Tried]] | None,
    open_: int,
    again: Container[str] = (),
) -> str:
    """Who is told, how it takes it, and what was tried last.

    Args:
        frame: What stands around it.
        receivers: The newest first.
        tried: The last attempts with their jobs; None where the one who looks may not see them.
        open_: Deliveries that have not ended.
        again: The deliveries that can be sent again.
    """
    rows = (
        (
            markup.name(_address(receiver.url, whole=frame.acts)),
            _standing(receiver),
            f"{receiver.open:,}",
            f"{receiver.running:,}",
            f"{receiver.delivered:,}",
            f"{receiver.failed:,}",
            receiver.failures or None,
            receiver.status,
            receiver.error,
            markup.ago(receiver.tried_at),
            _next(receiver),
        )
        for receiver in receivers
    )
    heads = (
        *("Receiver", "State", "Open#", "Under way#", "Taken#", "Failed#", "In a row#", "Status#", "Last error"),
        *("Last try", "Next try"),
    )
    parts = [
        Markup("<h1>Webhooks</h1>"),
        Markup(f'<p class="soft">{open_:,} deliveries are on their way.</p>'),
        section("Receivers", table("Receivers", heads, rows, "Nobody was told of anything yet.")),
    ]
    if tried is not None:
        parts.append(section("Last attempts", _attempts(frame, tried, again)))
    return frame.document("webhooks", join(*parts))


def _standing(receiver: Receiver) -> Markup:
    word = str(receiver.standing)
    return markup.state("well" if word == "well" else "failing", word)


def _next(receiver: Receiver) -> Markup | str | None:
    """When it is tried again: in so many seconds, or now where that moment has come."""
    if receiver.next_at is None:
        return None
    left = receiver.next_at - time.time()
    return markup.hint(f"in {markup.span(left)}" if left > 0 else "its turn has come", receiver.next_at)


def _address(url: str, *, whole: bool) -> str:
    """A receiver's URL; for those who only look without its query, where secrets tend to stand."""
    return url if whole else urlsplit(url)._replace(query="", fragment="").geturl()


def _attempts(frame: Frame, tried: Sequence[tuple[str, Tried]], again: Container[str]) -> Markup:
    rows = (
        (
            markup.moment(one.time),
            job_link(job_id),
            f"job.{one.state}",
            markup.name(one.url),
            one.attempt,
            markup.state("done" if one.error is None else "failed", "taken" if one.error is None else "not taken"),
            one.status,
            one.error,
            send_again(frame, one.id, again),
        )
        for job_id, one in tried
    )
    heads = ("Time (UTC)", "Job", "Event", "Receiver", "Attempt#", "Outcome", "Status#", "Why", "")
    return table("Last attempts", heads, rows, "No attempt is on record for the jobs that came, run or ended last.")


# ---------------------------------------------------------------------------- health, audit


def health(
    frame: Frame,
    state: Mapping[str, Any],
    reasons: Sequence[str],
    facts: Sequence[tuple[str, object]],
    settings: Iterable[tuple[str, str, bool]],
) -> str:
    """The parts behind the page, and what they were told.

    Args:
        frame: What stands around it.
        state: As `/ops/state` gives it.
        reasons: Why the pool is not at its best.
        facts: More numbers of this gateway.
        settings: Variable, value, whether it was set.
    """
    store = state["store"]
    parts = [
        Markup("<h1>Health</h1>"),
        reasons_of(reasons),
        section(
            "Store and this gateway",
            markup.facts(
                (
                    ("Store", markup.state(store["status"], store.get("error") or store["status"])),
                    ("Store's latency", markup.milliseconds(store["latency_ms"])),
                    ("Requests and answers kept", _room(store)),
                    *facts,
                    ("Version", state["version"]),
                )
            ),
        ),
        section("Workers and their leases", _workers(state["workers"])),
        section("Gateways", _gateways(state["gateways"])),
        section("Processes", _processes(state.get("processes") or ())),
        section("Targets", _targets(state["targets"])),
        section("Settings in force", _settings(settings)),
    ]
    return frame.document("health", join(*parts))


def _room(store: Mapping[str, Any]) -> str | None:
    used, limit = store.get("used_bytes"), store.get("limit_bytes")
    if used is None:
        return None
    return f"{used / (1 << 20):,.1f}" + ("" if limit is None else f" of {limit / (1 << 20):,.0f}") + " MiB"


def _workers(workers: Iterable[dict[str, Any]]) -> Markup:
    rows = (
        (
            markup.code(worker["id"]),
            markup.name(worker["target"]),
            None if worker.get("lease_seconds") is None else f"{worker['lease_seconds']:.1f} s",
            markup.ago_of(worker["since"]),
            worker.get("version"),
            markup.state("ok", "linked")
            if not worker.get("unreachable")
            else markup.state("failed", f"no link to {', '.join(worker['unreachable'])}"),
        )
        for worker in workers
    )
    heads = ("Worker", "Holds target", "Lease for#", "Since", "Version", "Links")
    return table("Workers", heads, rows, "No worker is alive: start `foreman serve --role worker`.")


def _processes(processes: Iterable[dict[str, Any]]) -> Markup:
    rows = (
        (
            one["role"],
            markup.code(one["id"]),
            _late(one.get("loop_lag_ms")),
            _late(one.get("loop_lag_worst_ms")),
            markup.milliseconds(one.get("store_latency_ms")),
            None if one.get("rss_bytes") is None else f"{one['rss_bytes'] / (1 << 20):,.0f} MiB",
            one.get("pid"),
            markup.ago_of(one.get("since")),
            one.get("version"),
        )
        for one in processes
    )
    heads = (
        *("Role", "Process", "Loop lag#", "Worst in a minute#", "Store's latency#", "Memory#", "Pid#"),
        *("Since", "Version"),
    )
    return table("Processes", heads, rows, "No process has told how it does yet.")


def _late(lag: float | None) -> Markup | str | None:
    text = markup.milliseconds(lag)
    return Markup(f'<span class="bad">! {text}</span>') if lag is not None and lag > LATE else text


def _gateways(gateways: Iterable[dict[str, Any]]) -> Markup:
    rows = (
        (markup.code(one["id"]), one["callers"], markup.ago_of(one.get("since")), one.get("version"))
        for one in gateways
    )
    return table(
        "Gateways", ("Gateway", "Callers waiting#", "Since", "Version"), rows, "No gateway has announced itself."
    )


def _targets(targets: Iterable[dict[str, Any]]) -> Markup:
    rows = (
        (
            markup.name(one["name"]),
            markup.state(one["state"]),
            one["kind"],
            one.get("version"),
            one["slots"],
            one.get("places"),
            markup.ago_of(one.get("since")),
            one.get("error"),
        )
        for one in targets
    )
    heads = ("Target", "State", "Kind", "Version", "Slots#", "Places#", "Since", "Why")
    return table("Targets", heads, rows, "No worker has announced a target yet.")


def _settings(settings: Iterable[tuple[str, str, bool]]) -> Markup:
    rows = (
        (markup.code(name), markup.code(value), Markup("<b>set</b>") if given else "default")
        for name, value, given in settings
    )
    return table("Settings", ("Variable", "Value", "From"), rows, "")


def audit(frame: Frame, deeds: Sequence[Deed]) -> str:
    """What operators did, newest first."""
    rows = (
        (
            markup.moment(deed.time),
            markup.name(deed.who),
            deed.action,
            deed.kind,
            job_link(deed.name, whole=True) if deed.kind == "job" else markup.name(deed.name),
            join("as ", job_link(deed.made, whole=True)) if deed.made else came_of(deed),
        )
        for deed in deeds
    )
    heads = ("Time (UTC)", "Who", "Did", "To a", "Name", "Outcome")
    body = join(
        Markup("<h1>Audit</h1>"),
        table("Actions, newest first", heads, rows, "Nobody has done anything yet."),
    )
    return frame.document("audit", body)
