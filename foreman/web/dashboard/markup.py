"""The pieces of HTML that every view is made of: cells, tables, states, spans of time, buttons.

The views beside me call me with values; what comes back is HTML. Text becomes HTML here and nowhere else: whatever is no
`Markup` is escaped, and names from outside stand in elements that keep their direction to themselves.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PATH: Final = "/ui"
MARKS: Final = {
    "up": "✓",
    "down": "✗",
    "paused": "‖",
    "queued": "○",
    "loading": "◔",
    "working": "●",
    "done": "✓",
    "failed": "✗",
    "cancelled": "⊘",
    "ok": "✓",
    "unavailable": "✗",
    "well": "✓",
    "failing": "!",
}
"""A state's mark beside its word and colour, so that none of them is alone."""


_TURNS: Final = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def cell(value: object) -> str:
    """A value as HTML; a dash for what is not known."""
    if isinstance(value, Markup):
        return value
    return "–" if value is None or value == "" else plain(str(value))


def plain(text: str) -> str:
    """Text as HTML, without what would turn the direction of the words that follow."""
    return escape(text).translate(_TURNS)


def join(*parts: object) -> Markup:
    """Pieces one after another; None is left out."""
    return Markup("".join(cell(part) for part in parts if part is not None))


def section(title: str, *body: object) -> Markup:
    """A part of a view under its heading."""
    return Markup(f"<section><h2>{escape(title)}</h2>{join(*body)}</section>")


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[object]], nothing: str) -> Markup:
    """A table, or a sentence where there are no rows.

    A head that ends in `#` is of a column of numbers. `caption` is for those who hear the page.
    """
    kinds = [' class="n"' if head.endswith("#") else "" for head in heads]
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell(value)}</td>" for kind, value in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    if not body:
        return Markup(f'<p class="none">{escape(nothing)}</p>')
    head = "".join(
        f'<th scope="col"{kind}>{escape(name.rstrip("#"))}</th>' for kind, name in zip(kinds, heads, strict=True)
    )
    return Markup(
        f'<div class="wide" role="region" aria-label="{escape(caption)}" tabindex="0"><table>'
        f'<caption class="quiet">{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def facts(pairs: Iterable[tuple[str, object]]) -> Markup:
    """Names and their values."""
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{cell(value)}</dd></div>" for name, value in pairs)
    return Markup(f'<dl class="facts">{rows}</dl>')


def numbers(pairs: Iterable[tuple[str, int]]) -> Markup:
    """Counts, large."""
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{number:,}</dd></div>" for name, number in pairs)
    return Markup(f'<dl class="numbers">{cells}</dl>')


def state(word: str, text: str | None = None) -> Markup:
    """A state: mark, word and colour."""
    mark = MARKS.get(word, "·")
    kind = word if word in MARKS else "other"
    return Markup(f'<span class="state s-{kind}"><span aria-hidden="true">{mark}</span> {escape(text or word)}</span>')


def name(text: str | None) -> Markup:
    """A name from outside: it keeps its direction to itself; where it is cut, its title has it whole."""
    if not text:
        return Markup("–")
    return Markup(f'<bdi class="name" title="{escape(text)}">{plain(text)}</bdi>')


def code(text: object) -> Markup:
    """An id or a line of a shell."""
    return Markup(f"<code>{cell(text)}</code>")


def link(path: str, text: object) -> Markup:
    """A link within the page. `path` is a URL already."""
    return Markup(f'<a href="{escape(path)}">{cell(text)}</a>')


def job_link(job_id: str, *, whole: bool = False) -> Markup:
    """A link to a job's view: its last letters, which tell jobs apart at a glance, or all of it."""
    shown = job_id if whole else f"…{job_id[-8:]}"
    return Markup(
        f'<a class="id" href="{PATH}/jobs/{quote(job_id, safe="")}" title="{escape(job_id)}">{escape(shown)}</a>'
    )


def button(
    text: str, do: str, *, ask: str | None = None, said: str = "Done.", kind: str = "", ident: str | None = None
) -> Markup:
    """What a script makes a request of; without scripts it is not shown.

    Args:
        text: On the button.
        do: `METHOD /path`.
        ask: The question before it is done.
        said: What is told when it was.
        kind: `danger` for what can't be undone.
        ident: The element's id, for what a key does.
    """
    named = f' id="{ident}"' if ident else ""
    question = f' data-ask="{escape(ask)}"' if ask else ""
    return Markup(
        f'<button type="button"{named} class="act {kind}" data-do="{escape(do)}"{question} data-said="{escape(said)}">'
        f"{escape(text)}</button>"
    )


def span(seconds: float | None) -> str | None:
    """Seconds as people say them: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    if seconds is None:
        return None
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for size, unit, part, small in ((3600, "min", 60, "s"), (86400, "h", 3600, "min"), (10**12, "d", 86400, "h")):
        if whole < size:
            large, rest = divmod(whole, part)
            rest = rest // {"s": 1, "min": 60, "h": 3600}[small]
            return f"{large} {unit} {rest} {small}" if rest else f"{large} {unit}"
    return None


def milliseconds(value: float | None) -> str | None:
    """Milliseconds as people say them."""
    if value is None:
        return None
    return f"{value:.1f} ms" if value < 9.95 else f"{value:.0f} ms" if value < 999.5 else span(value / 1000)


def moment(seconds: float | None) -> Markup | None:
    """A moment (seconds since the epoch) in UTC; with its day where that is not today's."""
    if seconds is None:
        return None
    at = datetime.fromtimestamp(seconds, UTC)
    today = at.date() == datetime.now(UTC).date()
    return hint(at.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S"), seconds)


def hint(text: str, seconds: float) -> Markup:
    """Words for a moment, the moment in their title."""
    iso = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Markup(f'<time datetime="{iso}" title="{iso}">{escape(text)}</time>')


def ago(seconds: float | None) -> Markup | None:
    """How long ago a moment was."""
    return None if seconds is None else hint(f"{span(time.time() - seconds)} ago", seconds)


def ago_of(iso: str | None) -> Markup | None:
    """The same for a moment as `/ops/state` writes it."""
    return ago(datetime.fromisoformat(iso).timestamp()) if iso else None
