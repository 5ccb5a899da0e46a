"""The history of swaps as a drawing and as a table: who was loaded where, what the loads took, which jobs ran.

web/dashboard/reading.py hands me records; the page's script puts what comes back into the overview. Places along the
time axis are percentages, so that the drawing fits any width and its words stay readable.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Final

from foreman.core.jobs import State
from foreman.web.dashboard import markup
from foreman.web.dashboard.markup import Markup, join, span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from foreman.store.swaps import SwapRecord
    from foreman.store.views import Ran

SPANS: Final = {900: "15 min", 3600: "1 h", 21600: "6 h"}
"""Seconds one may look back."""
SHOWN: Final = 50
"""Swaps in the table."""
_ROW, _GAP, _NAME, _AXIS = 18, 14, 18, 20
_LABELLED: Final = 4.0
"""Percent of the width from which on a residency has room for its name."""
_NARROW: Final = 0.5
"""Percent of the width below which a residency is a stroke without words."""
_RAILS: Final = 24
"""Targets that are drawn."""
_STEPS: Final = (10, 30, 60, 120, 300, 600, 1800, 3600)
_SLACK: Final = 1.0
"""Seconds after a load in which the end of the one before may be noted."""
_EDGE: Final = 7.0
"""Percent of the width at either end without a time."""
_MARKS: Final = 6
"""Times on the axis, at most."""
_SHORTEST: Final = 60.0
"""Seconds that are drawn at least."""
_REASONS: Final = {
    "room": "there was a free place",
    "empty": "nothing else was left",
    "due": "its turn had come",
    "class": "a higher class waited",
    "pin": "it is pinned",
    "found": "somebody else loaded it",
}


def timeline(history: Mapping[str, Sequence[SwapRecord]], jobs: Sequence[Ran], now: float, back: int) -> str:
    """The drawing with its buttons, key and table.

    Args:
        history: Target → its residencies, oldest first.
        jobs: Those that ran and ended in that time.
        now: The right edge, seconds since the epoch.
        back: Seconds from the left edge to the right one, one of SPANS.
    """
    begin = now - back
    buttons = "".join(
        f'<button type="button" data-look="{seconds}" aria-pressed="{str(seconds == back).lower()}">{title}</button>'
        for seconds, title in SPANS.items()
    )
    head = Markup(f'<p class="acts"><span class="soft">Loaded lanes over the last</span>{buttons}</p>')
    shown = {name: [one for one in records if (one.end or now) > begin] for name, records in history.items()}
    if not any(shown.values()):
        return join(head, Markup('<p class="none">Nothing was loaded in that time.</p>'))
    more = len(shown) - _RAILS
    rest = Markup(f'<p class="none">{more:,} more targets are not drawn.</p>') if more > 0 else None
    return join(head, _drawing(shown, jobs, now, back), rest, _key(shown), _table(shown))


def colour(lane: str) -> str:
    """The lane's colour, the same as in format.js."""
    total = 7
    for letter in lane:
        total = (total * 31 + ord(letter)) & 0xFFFFFFFF
    return f"c{total % 8}"


def _drawing(history: Mapping[str, Sequence[SwapRecord]], jobs: Sequence[Ran], now: float, back: float) -> Markup:
    first = min((one.t0 for records in history.values() for one in records), default=now)
    begin = max(now - back, min(first, now - _SHORTEST))
    back = now - begin

    def x(moment: float) -> float:
        return 100 * min(1.0, max(0.0, (moment - begin) / back))

    parts: list[str] = []
    top = 0
    for name, records in list(history.items())[:_RAILS]:
        parts.append(f'<text x="0" y="{top + 12}">{escape(name[:60])}</text>')
        top += _NAME
        rows = _rows(records, now)
        height = max(1, len(rows)) * _ROW
        parts.append(f'<rect class="rail" x="0" y="{top}" width="100%" height="{height}" rx="3"></rect>')
        for number, row in enumerate(rows):
            parts += [_residency(one, top + number * _ROW, x, now) for one in row]
        parts += [_tick(job, top + height, x) for job in jobs if job.target == name]
        top += height + _GAP
    step = next((step for step in _STEPS if back / step <= _MARKS), _STEPS[-1])
    for moment in range(int(begin // step + 1) * step, int(now) + 1, step):
        at = x(moment)
        if not _EDGE < at < 100 - _EDGE:  # it would stand in its neighbour, or half outside
            continue
        clock = datetime.fromtimestamp(moment, UTC).strftime("%H:%M:%S" if step < 60 else "%H:%M")
        parts.append(f'<text x="{at:.2f}%" y="{top + 8}" text-anchor="middle">{clock}</text>')
    swaps = sum(len(records) for records in history.values())
    label = f"{swaps} residencies on {len(history)} targets in {span(back)}, UTC; the table below says the same"
    hatch = (
        '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect class="paper" width="3" height="6"></rect></pattern></defs>'
    )
    return Markup(
        f'<svg role="img" aria-label="{escape(label)}" width="100%" height="{top + _AXIS}">{hatch}{"".join(parts)}</svg>'
    )


def _rows(records: Sequence[SwapRecord], now: float) -> list[list[SwapRecord]]:
    """Residencies that overlap one below the other, as a target with several places has them."""
    rows: list[list[SwapRecord]] = []
    for one in records:
        free = next((row for row in rows if (row[-1].end or now) <= one.loaded + _SLACK), None)
        if free is None:
            rows.append([one])
        else:  # a swap begins with the unloading of the one before, which is noticed later
            last = free[-1]
            free[-1] = replace(last, end=max(last.loaded, min(last.end or now, one.t0)))
            free.append(one)
    return rows


def _residency(one: SwapRecord, top: int, x: Callable[[float], float], now: float) -> str:
    left, loaded, right = x(one.t0), x(one.loaded), x(one.end or now)
    if right - left < _NARROW:
        size = f'width="{max(0.1, right - left):.2f}%" height="{_ROW - 2}"'
        return f'<rect class="held {colour(one.lane)}" x="{left:.2f}%" y="{top + 1}" {size}></rect>'
    held = span((one.end or now) - one.loaded)
    title = f"{one.model}: {_why(one.reason)}; load {span(one.loaded - one.t0)}, held {held}"
    name, width = one.model.removesuffix(":latest"), right - loaded
    text = f'<text class="on" x="5" y="12">{escape(name[:60])}</text>' if width > _LABELLED else ""
    return (
        f'<g class="{colour(one.lane)}"><title>{escape(title)}</title>'
        f'<rect class="held" x="{left:.3f}%" y="{top + 1}" width="{max(0.15, right - left):.3f}%" height="{_ROW - 2}" rx="2"></rect>'
        f'<rect fill="url(#hatch)" x="{left:.3f}%" y="{top + 1}" width="{max(0.0, loaded - left):.3f}%" height="{_ROW - 2}"></rect>'
        f'<svg x="{loaded:.3f}%" y="{top + 1}" width="{max(0.0, width):.3f}%" height="{_ROW - 2}">{text}</svg></g>'
    )


def _tick(job: Ran, bottom: int, x: Callable[[float], float]) -> str:
    at = x(job.ended)
    kind = "tick fail" if job.state is State.FAILED else "tick"
    return f'<line class="{kind}" x1="{at:.3f}%" x2="{at:.3f}%" y1="{bottom + 1}" y2="{bottom + 8}"></line>'


def _key(history: Mapping[str, Sequence[SwapRecord]]) -> Markup:
    lanes = {one.lane: one.model for records in history.values() for one in records}
    entries = "".join(
        f'<li class="{colour(lane)}" data-key="{escape(lane)}"><i></i>{markup.name(model.removesuffix(":latest"))}'
        f"<small> {escape(lane.partition('?')[2])}</small></li>"
        for lane, model in sorted(lanes.items(), key=lambda pair: pair[1])[:SHOWN]
    )
    more = '<li class="loads"><i></i>hatched: loads</li><li>| a job ends</li>'
    return Markup(f'<ul class="chips">{entries}{more}</ul>')


def _table(history: Mapping[str, Sequence[SwapRecord]]) -> Markup:
    found = sorted((one for records in history.values() for one in records), key=lambda one: -one.t0)[:SHOWN]
    rows = (
        (
            markup.moment(one.t0),
            markup.name(one.target),
            markup.name(one.model),
            _why(one.reason),
            span(one.loaded - one.t0),
            span(one.end - one.loaded) if one.end else "still loaded",
            one.ended_by,
            "cut short" if one.cut else None,
        )
        for one in found
    )
    heads = ("Time (UTC)", "Target", "Model", "Because", "Load#", "Held#", "Ended by", "The one before")
    return Markup(
        f'<details data-key="swaps"><summary>The same as a table</summary>{markup.table("Swaps, newest first", heads, rows, "")}</details>'
    )


def _why(reason: str) -> str:
    return _REASONS.get(reason, reason)


def fits(text: str | None) -> int:
    """The span that was asked for, or the shortest."""
    return next((seconds for seconds in SPANS if str(seconds) == text), next(iter(SPANS)))
