"""`foreman chat MODEL`: talk with a model through the gateway, live.

The command line's entry calls me. A prompt comes as an argument, by a pipe, or line by line in a terminal; Ctrl-C
cancels the answer that is being given. Text goes to stdout as it comes, remarks and timings to stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import aiohttp
import typer

from foreman.cli.console import Failed, Refusal, remark, say, settings_in_force, show_json
from foreman.client.chat import Answer, ChatError, stream

if TYPE_CHECKING:
    from foreman.settings import Settings

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def chat(
    model: Annotated[str, typer.Argument(help="The model, as the target names it.")],
    prompt: Annotated[str | None, typer.Argument(help="What to say; without it stdin is read.")] = None,
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
    """Line by line until the end of input; the turns so far go along."""
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
        messages = [*asked, {"role": "assistant", "content": "".join(answer.text)}]


def _turn(settings: Settings, model: str, messages: list[dict[str, Any]], *, as_json: bool) -> Answer:
    """One question and its answer, shown as it comes.

    Raises:
        Failed: the gateway can't be reached, said no, or Ctrl-C cancelled the answer.
    """
    answer = Answer(sent_at=time.monotonic())
    try:
        asyncio.run(_ask(settings, {"model": model, "messages": messages}, answer, live=not as_json))
    except ChatError as error:
        raise Failed(f"{error}{' (' + error.code + ')' if error.code else ''}") from None
    except aiohttp.ClientError as error:
        raise Failed(
            f"no foreman answers at {settings.gateway_url} ({error}): start one with `foreman serve`, or set FOREMAN_URL"
        ) from None
    except asyncio.CancelledError:
        raise Failed("cancelled") from None
    if as_json:
        show_json(_report(model, answer))
    else:
        say()
        remark(_timings(answer))
    return answer


async def _ask(settings: Settings, request: dict[str, Any], answer: Answer, *, live: bool) -> None:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, task.cancel)
    chunks = stream(settings.gateway_url, request, token=settings.token)
    async with contextlib.aclosing(chunks):
        async for chunk in chunks:
            text, thinking = answer.add(chunk, time.monotonic())
            if live:
                _show(text, thinking)


def _show(text: str, thinking: str) -> None:
    """A delta as it came: thinking beside the answer, on stderr."""
    if thinking:
        sys.stderr.write(f"{DIM}{thinking}{PLAIN}" if sys.stderr.isatty() else thinking)
        sys.stderr.flush()
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def _timings(answer: Answer) -> str:
    ttft, tpot = _ms(answer.ttft), _ms(answer.tpot)
    parts = [f"TTFT {ttft:.0f} ms" if ttft is not None else "no token"]
    if tpot is not None:
        parts.append(f"TPOT {tpot:.1f} ms" + (f" ({1000 / tpot:.0f} tokens/s)" if tpot else ""))
    return ", ".join([*parts, f"{answer.tokens} tokens"])


def _report(model: str, answer: Answer) -> dict[str, Any]:
    return {
        "model": model,
        "content": "".join(answer.text),
        "thinking": "".join(answer.thinking),
        "done_reason": answer.end.get("done_reason"),
        "prompt_tokens": answer.end.get("prompt_eval_count"),
        "completion_tokens": answer.tokens,
        "ttft_ms": _ms(answer.ttft),
        "tpot_ms": _ms(answer.tpot),
        "total_ms": _ms(time.monotonic() - answer.sent_at),
    }
