"""The ways a run ends, and which one it is: by a fault of the target, a wish, or the worker's leaving.

The executor asks me and does what I say. Pure: no await, no clock, no store.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from foreman.core.errors import Code, Failure
from foreman.upstream.faults import Fault, Kind

_WISHES: Final = frozenset({Code.CANCELLED, Code.CALLER_GONE})
"""Codes of a wish that end a job as `cancelled`; all others end it as `failed`."""
_CUT_SHORT: Final = {
    Code.DEADLINE_EXCEEDED: "the job was not finished by its deadline; allow more time, or send less",
}


CUT: Final = Failure(Code.INTERRUPTED, "the worker was lost in the middle of the answer: send the request again")
"""What a job ends with whose callers have bytes of a run that was lost."""


class How(enum.Enum):
    """How a run ended."""

    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    BACK = "back"
    """Into its lane again; with a failure an attempt is used up."""
    DROPPED = "dropped"
    """Somebody else has the right to the job now: nothing is written."""


@dataclass(frozen=True, slots=True)
class End:
    """The end of a run."""

    how: How
    failure: Failure | None = None
    reason: str = ""
    """For the job's event."""
    told: bool = False
    """The caller has heard of it."""


def failed(failure: Failure, *, told: bool = False) -> End:
    """The job fails with this."""
    return End(How.FAILED, failure, str(failure.code), told)


def by_ending(failure: Failure, *, again: bool, told: bool = False) -> End:
    """The target ended its answer in its own way, but not well. `again`: one that was cut may be run again."""
    if again and failure.code is Code.UPSTREAM_TRUNCATED:
        return End(How.BACK, failure, str(failure.code))
    return failed(failure, told=told)


def by_fault(fault: Fault, target: str, *, spliced: bool) -> End:
    """A fault of the target. `spliced`: a second answer would follow bytes of the first to the same caller.

    1. down: wait for it, no attempt used; 2. reset before the first byte, or cut where nobody has a byte: run again;
    3. everything else is final.
    """
    failure = fault.failure(target)
    if fault.kind is Kind.REFUSED:
        return End(How.BACK, None, "target_down")
    if fault.kind is Kind.RESET or (fault.kind is Kind.TRUNCATED and not spliced):
        return End(How.BACK, failure, str(failure.code))
    return failed(failure)


def by_wish(code: Code, *, spliced: bool) -> End:
    """Somebody wants it ended; `interrupted` is the gateway's word for a run it has lost the thread of."""
    if code in _WISHES:
        words = "cancelled by its caller" if code is Code.CALLER_GONE else "the job was cancelled"
        return End(How.CANCELLED, Failure(code, words), str(code))
    if code is Code.INTERRUPTED:
        failure = Failure(code, "the way to the caller was lost in mid-answer; send the request again")
        return failed(failure) if spliced else End(How.BACK, failure, str(code))
    return failed(Failure(code, _CUT_SHORT.get(code, "the job was cut short")))


def by_leaving(*, spliced: bool) -> End:
    """The worker leaves: back without using up an attempt, or, once its caller has bytes, an error."""
    if spliced:
        return failed(Failure(Code.INTERRUPTED, "the worker was shut down in mid-answer; send the request again"))
    return End(How.BACK, None, "shutdown")
