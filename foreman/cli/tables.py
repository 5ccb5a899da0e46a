"""Tables in a terminal, and what may stand in them.

jobs, show and top call me. What came from outside (names, messages) loses whatever could move a cursor or turn text
around. In a terminal a table fits its width; in a pipe every cell stays whole, so that `grep` and `awk` can read it.
"""

from __future__ import annotations

import sys
import unicodedata
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

_PIPE_WIDTH: Final = 10_000
_STYLES: Final = {
    "done": "green",
    "up": "green",
    "ok": "green",
    "failed": "red",
    "down": "red",
    "unavailable": "red",
    "working": "cyan",
    "loading": "yellow",
    "paused": "yellow",
    "cancelled": "dim",
}
"""Colour beside the word, never instead of it."""
_WHOLE: Final = frozenset({"JOB", "STATE"})
"""Columns that stay whole as long as any name can give way."""


def console() -> Console:
    """Stdout as it is now."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(file=sys.stdout, width=_PIPE_WIDTH, highlight=False, color_system=None)


def plain(value: object) -> str:
    """Text that shows as one line and as itself: no control characters, no marks that turn the writing around."""
    return "".join("\ufffd" if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co"} else char for char in str(value))


def cell(value: object) -> Text:
    """A cell; nothing for None."""
    word = "" if value is None else plain(value)
    return Text(word, style=_STYLES.get(word, ""))


def _line(value: object) -> Text:
    """A cell that stays one line however narrow its column is."""
    text = cell(value)
    text.no_wrap = True
    return text


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = ()) -> Table:
    """A table without lines; `right`: the columns whose numbers stand under each other.

    Where the terminal is too narrow, names give way: a state or a number of which a part is seen says nothing.
    """
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    numbers = set(right)
    for name in columns:
        made.add_column(
            name,
            justify="right" if name in numbers else "left",
            no_wrap=name in numbers or name in _WHOLE,
            overflow="ellipsis",
            min_width=0,
        )
    for row in rows:
        made.add_row(*(_line(value) for value in row))
    return made


def pairs(facts: Iterable[tuple[str, object]]) -> Table:
    """Names and values; long values go on in the next line."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in facts:
        made.add_row(cell(name), cell(value))
    return made


def show(*parts: RenderableType) -> None:
    """Print, without blanks at the ends of lines."""
    out = console()
    with out.capture() as captured:
        out.print(Group(*parts))
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))
    sys.stdout.flush()


def span(seconds: float | None) -> str:
    """A duration at a glance: `0.3s`, `42s`, `7m`, `3h`, `2d`."""
    if seconds is None:
        return ""
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size or (unit == "m" and seconds >= size):
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s" if seconds >= 10 else f"{max(0.0, seconds):.1f}s"
