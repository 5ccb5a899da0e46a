"""Every task has a parent: a small owner of background tasks for objects that outlive one `async with`.

Servers, dispatchers and links call me to spawn; I keep the reference, log what died unexpectedly, and cancel and await
everything on `close()`. Where a scope fits in one function, use asyncio.TaskGroup instead. Work on large bodies I lend a
thread: 64 MiB take a tenth of a second and more, in which nobody's token would go on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from foreman.protocols.gojson import LARGE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

log = structlog.get_logger(__name__)

T = TypeVar("T")


async def aside(size: int, work: Callable[..., T], *args: Any) -> T:
    """What `work` makes of its arguments: here, or in a thread where a body of `size` bytes is large."""
    return await asyncio.to_thread(work, *args) if size > LARGE else work(*args)


class Tasks:
    """The children of one owner. Not thread-safe: spawn and close from the owner's loop."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Start `coro` as a child; an exception it dies of is logged as `task.died`, never lost."""
        task = asyncio.get_running_loop().create_task(coro, name=f"{self._owner}.{name}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Only its kind beside the traceback: the repr of a decoding error holds all that was to be decoded.
            log.error("task.died", task=task.get_name(), error=type(error).__name__, exc_info=error)

    async def close(self) -> None:
        """Cancel all children and wait until they are gone."""
        current = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._tasks)
