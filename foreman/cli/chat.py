"""`foreman chat MODEL`: talk with a model through the gateway, live.

The command line's entry calls me. A prompt comes as an argument, by a pipe, or line by line in a terminal; Ctrl-C
cancels the answer that is being given. Text goes to stdout as it comes, remarks and timings to stderr.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreman.cli.asking import refused
from foreman.cli.console import Failed, Refusal, cancel_by, remark, say, settings_in_force, show_json
from foreman.client import Foreman, ForemanError

if TYPE_CHECKING:
    from foreman.client import Answer, Delta, State
    from foreman.settings import Settings

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def chat(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model, as the target names it.")],
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="What to say; without it stdin is read.")
    ] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="One JSON object at the end instead of live text.")] = False,
) -> None:
    """Talk with a model through the gateway; prints TTFT and TPOT."""
    settings = settings_in_force()
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read().strip()
    if prompt is not None:
        if not prompt.strip():
            raise Refusal('say something: foreman chat MODEL "Why is the sky blue?", or pipe a prompt in')
        _turn(settings, model, [{"role": "user", "content": prompt}], as_json=json)
    elif json:
        raise Refusal("--json wants one prompt: give it as an argument or by a pipe")
    else:
        _conversation(settings, model)


def _conversation(settings: Settings, model: str) -> None:
    """Line by line until the end of input; what was said so far goes along."""
    remark(f"{model} at {settings.gateway_url}. Ctrl-C cancels an answer, Ctrl-D ends.")
    messages: list[dict[str, Any]] = []
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            remark("")
            return
        if not line:
            continue
        asked = [*messages, {"role": "user", "content": line}]
        try:
            answer = _turn(settings, model, asked, as_json=False)
        except Failed as error:
            remark(str(error))
            continue
        messages = [*asked, {"role": "assistant", "content": answer.text}]


def _turn(settings: Settings, model: str, messages: list[dict[str, Any]], *, as_json: bool) -> Answer:
    """One question and its answer, shown as it comes.

    Raises:
        Failed: the gateway can't be reached, said no, or Ctrl-C cancelled the answer.
    """
    began = time.monotonic()
    try:
        answer = asyncio.run(_ask(settings, {"model": model, "messages": messages}, live=not as_json))
    except asyncio.CancelledError:
        raise Failed("cancelled") from None
    if as_json:
        show_json(_report(model, answer, time.monotonic() - began))
    else:
        say()
        remark(_timings(answer))
    return answer


async def _ask(settings: Settings, request: dict[str, Any], *, live: bool) -> Answer:
    cancel_by(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    screen = Screen() if live else None
    try:
        async with (
            Foreman(settings.gateway_url, settings.token) as foreman,
            foreman.chat(
                request,
                on_state=screen.state if screen is not None else None,
                on_restart=screen.restart if screen is not None else _nothing_was_shown,
            ) as answering,
        ):
            async for delta in answering:
                if screen is not None:
                    screen.show(delta)
    except ForemanError as error:
        raise await refused(error, settings) from None
    return answering.answer


def _nothing_was_shown() -> None:
    """The answer is printed whole at its end: what was lost of it was never seen."""


class Screen:
    """What a person sees of one answer: text on stdout; on stderr its thinking, and what it waits for."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._status = ""

    def state(self, state: State) -> None:
        """Say what the call does: on a terminal in one line that is written over, in a pipe once for each state."""
        if state.name in {"sent", "answering", "thinking", "done"}:
            self._clear()
        elif self._terminal:
            self._clear()
            self._status = f"[{state}]"
            self._write(f"{DIM}{self._status}{PLAIN}")
        elif self._status != state.name:
            self._status = state.name
            self._write(f"[{state}]\n")

    def show(self, delta: Delta) -> None:
        """A delta as it came: thinking beside the answer, on stderr."""
        if delta.thinking:
            self._write(f"{DIM}{delta.thinking}{PLAIN}" if self._terminal else delta.thinking)
        for call in delta.calls:
            self._write(f"[calls {call.name}({call.arguments!r})]\n")
        if delta.text:
            sys.stdout.write(delta.text)
            sys.stdout.flush()

    def restart(self) -> None:
        """What was shown is void."""
        self._clear()
        self._write("\n[the run was lost: the answer begins anew]\n")

    def _clear(self) -> None:
        if self._terminal and self._status:
            self._write("\r\x1b[K")
        if self._terminal:
            self._status = ""

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def _timings(answer: Answer) -> str:
    ttft, tpot = _ms(answer.ttft), _ms(answer.tpot)
    parts = [f"TTFT {ttft:.0f} ms" if ttft is not None else "no token"]
    if tpot is not None:
        parts.append(f"TPOT {tpot:.1f} ms" + (f" ({1000 / tpot:.0f} tokens/s)" if tpot else ""))
    return ", ".join([*parts, f"{answer.tokens} tokens"])


def _report(model: str, answer: Answer, total: float) -> dict[str, Any]:
    return {
        "model": model,
        "content": answer.text,
        "thinking": answer.thinking,
        "tool_calls": [{"name": call.name, "arguments": call.arguments} for call in answer.calls],
        "done_reason": answer.finish,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.tokens,
        "ttft_ms": _ms(answer.ttft),
        "tpot_ms": _ms(answer.tpot),
        "total_ms": _ms(total),
    }
