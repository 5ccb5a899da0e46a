"""What stands around every view, the views' names, and the form that asks for the token.

web/dashboard/site.py calls me with a view's HTML. I write whole documents: links to the page's own files, no script and
no style in the text, and what the scripts begin with as a block of data.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import foreman
from foreman.web.dashboard.markup import PATH

if TYPE_CHECKING:
    from collections.abc import Mapping

REFRESH: Final = 5
"""Seconds between two reloads where no script runs."""
STYLE: Final = resources.files(__package__).joinpath("style.css").read_text("utf-8")
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
_TOOLS: Final = (
    '<div id="tools"><span id="feed"></span><button type="button" id="hold">Hold</button>'
    '<button type="button" aria-label="Light or dark" title="Light or dark">◐</button>'
    '<button type="button" aria-label="Keys" title="Keys">?</button></div>'
)
"""How fresh the page is, and what it can be told; the script fills it, and without one it is not shown."""
_KEYS: Final = {
    "?": "this help",
    "/": "search",
    "p": "hold the page still, or let it go on",
    "j k": "next, previous row",
    "Enter": "open it",
    "c": "cancel the job that is shown",
    "g o": "go to the overview; g j: jobs, g f: failures, g w: webhooks, g p: playground, g h: health, g a: audit",
}
_SPANS: Final = {"": "until somebody resumes it", "30m": "30 minutes", "2h": "2 hours", "8h": "8 hours"}
_DIALOGS: Final = (
    '<div id="speaker" role="status"></div>'
    '<dialog id="ask" aria-labelledby="asked"><form method="dialog"><p id="asked"></p>'
    '<textarea readonly rows="10" aria-label="The text" hidden></textarea><label hidden>For how long <select name="for">'
    + "".join(f'<option value="{value}">{shown}</option>' for value, shown in _SPANS.items())
    + '</select></label><menu><button value="">Close</button><button value="yes"></button></menu></form></dialog>'
    '<dialog id="help" aria-label="Keys"><form method="dialog"><dl class="keys">'
    + "".join(f"<dt>{key}</dt><dd>{does}</dd>" for key, does in _KEYS.items())
    + '</dl><menu><button value="">Close</button></menu></form></dialog>'
)
_ICON: Final = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E"
    "%3Crect width='32' height='32' rx='7' fill='%232f6f8f'/%3E"
    "%3Cpath d='M8 10h16M8 16h11M8 22h6' stroke='%23fff' stroke-width='3' stroke-linecap='round'/%3E%3C/svg%3E"
)
_CURRENT: Final = ' aria-current="page"'


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around every view."""

    stamp: str
    """Part of the files' path: it changes with them."""
    role: str
    """operator, named or reader. It says what is shown; what is allowed the server decides anew each time."""
    name: str | None = None
    """Of the token."""
    closed: bool = False
    """A token is asked for, so there is something to sign out of."""

    @property
    def acts(self) -> bool:
        """May change something at all, if only its own jobs."""
        return self.role != "reader"

    def document(self, view: str, body: str, boot: Mapping[str, Any] | None = None, title: str | None = None) -> str:
        """The whole page.

        Args:
            view: The last part of its path.
            body: HTML.
            boot: What the scripts begin with, beside who looks.
            title: Of the window; the view's own by default.
        """
        files = f"{PATH}/static/{self.stamp}"
        links = "".join(
            f'<a href="{PATH}{"/" if name else ""}{name}"{_CURRENT if name == view else ""}>{shown}</a>'
            for name, shown in VIEWS.items()
            if name != "audit" or self.role != "named"
        )
        given = {"view": view, "role": self.role, "closed": self.closed, "version": foreman.__version__, **(boot or {})}
        # In a script element only `</script` and `<!--` could end or change anything.
        data = json.dumps(given, separators=(",", ":")).replace("<", "\\u003c")
        return (
            f'<!doctype html><html lang="en" data-role="{self.role}"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<meta name="color-scheme" content="light dark"><title>{escape(title or VIEWS[view])} · foreman</title>'
            f'<link rel="icon" href="{_ICON}"><link rel="stylesheet" href="{files}/style.css">'
            f'<script type="module" src="{files}/app.js"></script>'
            f'<noscript><meta http-equiv="refresh" content="{REFRESH}"></noscript></head><body>'
            '<a class="skip" href="#main">Skip to content</a>'
            f'<header><a class="brand" href="{PATH}">foreman</a><nav aria-label="Views">{links}</nav>'
            f'{_TOOLS}</header><main id="main" tabindex="-1">{body}</main><footer>{self._who()}</footer>{_DIALOGS}'
            f'<script type="application/json" id="boot">{data}</script></body></html>'
        )

    def _who(self) -> str:
        who = {"operator": "operator", "reader": "looking only", "named": f"token {escape(self.name or '')}"}[self.role]
        if not self.closed:
            return "<p>No token is set: whoever reaches this page is its operator.</p>"
        out = f'<form method="post" action="{PATH}"><button name="leave" value="1">sign out</button></form>'
        return f"<p>Signed in: {who}</p>{out}"


def trouble(frame: Frame, view: str, message: str) -> str:
    """A view that can't be shown, and why."""
    words = f'<div class="bad" role="alert"><p>{escape(message)}</p></div>'
    return frame.document(view, f"<h1>{VIEWS[view]}</h1>{words}")


def sign_in(message: str) -> str:
    """The form that asks for the token once."""
    said = f'<p class="bad" role="alert">{escape(message)}</p>' if message else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><title>Sign in · foreman</title>'
        f'<link rel="icon" href="{_ICON}"><style>{STYLE}</style></head><body class="door"><main><h1>foreman</h1>{said}'
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
