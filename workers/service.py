"""A worker: its place in the store, the targets it owns, and the loops that keep both.

`foreman serve` starts and stops me. I enroll, own every target I can and stand by for the rest, hand the store's orders
to those they concern, and leave in order on SIGTERM. A lease that was lost ends everything that hung on it; I then begin
anew under another name, so that nothing of the old life can be taken for mine.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

import foreman
from foreman.core.ids import UlidFactory
from foreman.core.jobs import Slot
from foreman.core.scheduler import Policy
from foreman.link.address import LinkTLS
from foreman.link.client import LinkClient
from foreman.link.local import LocalLink
from foreman.link.switchboard import Switchboard
from foreman.store.errors import FencedError, StoreUnavailableError
from foreman.store.lease import LeaseKeeper
from foreman.store.pulse import Pulse
from foreman.store.records import WorkerPresence
from foreman.store.roster import RECOVER
from foreman.tasks import Tasks
from workers.drain.beside import Beside
from workers.drain.dispatcher import Dispatcher
from workers.drain.inventory import Inventory
from workers.drain.target import Target
from workers.insist import insist
from workers.unheard import Unheard

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from foreman.core.targets import TargetSettings
    from foreman.settings import Settings
    from foreman.store.client import Store
    from foreman.store.inbox import Inbox
    from foreman.store.records import Order, Ownership, TargetStatus

log = structlog.get_logger(__name__)

GATEWAYS: Final = 1.0
RIVALS: Final = 0.5
"""Seconds for which an answer to "who else has this model?" is good."""
RENAMED: Final = 5.0
"""Seconds between two looks for targets that are known under a name they have no more."""
ALONE: Final = 3.0
"""The same, where there was but one target."""
STAND_BY: Final = 0.5
"""Seconds between two tries to own a target that another worker has."""
_LAST_WRITES: Final = 1.0
"""Seconds in which the last transitions of a worker that leaves are written."""
_SLOTS: Final = frozenset(Slot)


class Worker:
    """One worker. `start` once, `stop` once.

    Args:
        local: the gateways in this process, or None where there are none.
    """

    def __init__(self, settings: Settings, store: Store, worker_id: str, local: LocalLink | None = None) -> None:
        self.id = worker_id
        self.targets: dict[str, Target] = {}
        """Those it owns."""
        self._inventories: dict[str, Inventory] = {}
        self._settings = settings
        self._store = store
        self._queue = store.queue
        self._local = local
        self._channels: Switchboard | None = None
        self._since = time.time()
        self._rivals: list[TargetStatus] = []
        self._rivals_until = 0.0
        self._told_unreachable: tuple[str, ...] = ()
        self._tasks = Tasks("worker")
        self._inbox: Inbox[Order] | None = None
        self._stopping = False
        self._wanted = settings.target_list
        self._retargeted = asyncio.Event()
        self._leaving: set[str] = set()
        self._new_id = UlidFactory(lambda: time.time_ns() // 1_000_000, secrets.randbits)
        self._policy = Policy(swap_budget=settings.swap_budget)
        self._unheard = Unheard(store.queue, self._jobs)

    async def start(self) -> None:
        """Enroll and begin to work. Raises StoreUnavailableError, LinkSetupError."""
        secret = self._settings.link_secret or await self._queue.link_secret()
        tls = LinkTLS(ca=self._settings.link_ca) if self._settings.link_ca or self._settings.link_cert else None
        links = LinkClient(self.id, secret.encode(), tls)
        links.changed = self._links_changed
        self._channels = Switchboard(self._local or LocalLink(), links)
        await self._enroll()
        self._tasks.spawn(self._lives(), "lives")
        self._tasks.spawn(Pulse(self._store.views, "worker", lambda: self.id).run(), "pulse")
        self._tasks.spawn(self._every(RECOVER, self._recover), "recover")
        self._tasks.spawn(self._every(GATEWAYS, self._find_gateways), "gateways")
        self._tasks.spawn(self._every(RENAMED, self._forget_renamed), "renamed")
        log.info("worker.started", worker=self.id, targets=[target.name for target in self._settings.target_list])

    def retarget(self, targets: tuple[TargetSettings, ...]) -> None:
        """From now on these are the targets: new ones join, the others finish what runs there and leave."""
        if targets != self._wanted:
            self._wanted = targets
            self._retargeted.set()

    async def stop(self, grace: float) -> None:
        """Claim nothing more, let what runs end within `grace` seconds, give the rest back, and leave."""
        self._stopping = True
        owned = list(self.targets.values())
        for target in owned:
            target.stop()
        log.info("worker.leaving", worker=self.id, running=sum(len(target.runs) for target in owned), grace=grace)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                for target in owned:
                    await target.idle.wait()
        for target in owned:
            target.give_back()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WRITES):
                for target in owned:
                    await target.settled()
                for inventory in self._inventories.values():
                    await inventory.publish()  # what is resident: whoever takes over need not load it again
        await self._tasks.close()
        with contextlib.suppress(StoreUnavailableError):
            await self._queue.retire(self.id)
        if self._channels is not None:
            await self._channels.close()

    # -- one life after the other

    async def _lives(self) -> None:
        """A life lasts as long as its lease."""
        while True:
            try:
                await self._life()
            except* (StoreUnavailableError, FencedError) as group:
                log.warning("worker.life_ended", worker=self.id, error=str(group.exceptions[0]))
            except* Exception:  # a fault of ours ends this life, and no more
                log.exception("worker.life_broke", worker=self.id)
                await asyncio.sleep(STAND_BY)
            self.id = f"wk-{self._new_id()}"
            await insist(self._enroll)
            log.info("worker.reenrolled", worker=self.id)

    async def _life(self) -> None:
        """Own and serve until the lease is lost."""
        lost = asyncio.Event()
        keeper = LeaseKeeper(self._store.url, self._settings.pool, self.id, lost.set)
        keeper.start()
        try:
            async with asyncio.TaskGroup() as group:
                children = [group.create_task(self._keep_targets()), group.create_task(self._take_orders())]
                await lost.wait()
                for target in self.targets.values():
                    target.drop()
                for child in children:
                    child.cancel()
        finally:
            await asyncio.to_thread(keeper.stop)

    async def _keep_targets(self) -> None:
        """An owner for each target that is wanted; one that is no longer wanted finishes and leaves."""
        owners: dict[TargetSettings, asyncio.Task[None]] = {}
        self._leaving.clear()  # whoever was to leave in a life before has left with it
        async with asyncio.TaskGroup() as group:
            while True:
                self._retargeted.clear()
                for settings in [settings for settings in owners if settings not in self._wanted]:
                    self._leaving.add(settings.name)  # now: whoever is to have its name must wait
                    group.create_task(self._let_go(settings, owners.pop(settings)))
                for settings in self._wanted:
                    if settings not in owners and settings.name not in self._leaving:
                        owners[settings] = group.create_task(self._own(settings))
                await self._retargeted.wait()

    async def _let_go(self, settings: TargetSettings, owner: asyncio.Task[None]) -> None:
        """What runs ends, what waits is left to others, and the target leaves the pool's list."""
        target = self.targets.get(settings.name)
        if target is not None:
            target.stop()
            await target.idle.wait()
            await target.settled()
        owner.cancel()
        await asyncio.wait([owner])
        if target is not None:
            await insist(partial(self._queue.release, target.own))
            log.info("target.left", target=settings.name, worker=self.id)
        self._leaving.discard(settings.name)
        self._retargeted.set()

    async def _own(self, settings: TargetSettings) -> None:
        """Own a target as soon as nobody else does, serve it while it is ours, and stand by again."""
        while True:
            try:
                own = await self._queue.own(settings.name, self.id)
            except StoreUnavailableError:
                own = None
            if own is None or self._stopping:
                await asyncio.sleep(STAND_BY)
                continue
            log.info("target.owned", target=settings.name, worker=self.id, epoch=own.epoch)
            try:
                await self._serve(settings, own)
            except* FencedError:
                log.warning("target.fenced", target=settings.name, worker=self.id, epoch=own.epoch)
            except* Exception:  # a fault of ours: its jobs go back, and the target gets a fresh start
                log.exception("target.broke", target=settings.name, worker=self.id)
                await insist(partial(self._queue.release, own))
                await asyncio.sleep(STAND_BY)

    async def _serve(self, settings: TargetSettings, own: Ownership) -> None:
        """Run everything that a target needs. Raises FencedError (in a group) when it is another worker's."""
        assert self._channels is not None
        target = Target(
            self._settings,
            settings,
            own,
            self._queue,
            self._channels,
            rivals=self._find_rivals,
            swaps=self._store.swaps,
            policy=self._policy,
        )
        target.stopping = self._stopping
        inventory = Inventory(target, self._settings)
        dispatcher = Dispatcher(target, self._policy, self._settings.idle_unload)
        self.targets[settings.name], self._inventories[settings.name] = target, inventory
        self._queue.owners[settings.name] = dispatcher
        self._watch()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(inventory.run())
                group.create_task(target.history.run(lambda: target.residency.places))
                group.create_task(dispatcher.run())
                group.create_task(Beside(target, Slot.EMBED).run())
                group.create_task(Beside(target, Slot.SIDE).run())
        finally:
            del self.targets[settings.name], self._inventories[settings.name], self._queue.owners[settings.name]
            await target.close()

    def _watch(self) -> None:
        """Listen to the wake-ups of the targets we own."""
        if self._inbox is not None:
            self._inbox.watch(self.targets)

    # -- what comes in

    async def _take_orders(self) -> None:
        inbox = await insist(lambda: self._store.inbox("worker", self.id))
        assert inbox is not None
        self._inbox = inbox
        self._watch()
        try:
            while True:
                try:
                    order = await inbox.receive()
                except StoreUnavailableError:
                    await asyncio.sleep(RECOVER)
                    for target in self.targets.values():
                        target.wake()  # wake-ups may have been missed
                    continue
                if order is not None:
                    self._obey(order)
        finally:
            self._inbox = None
            await inbox.close()

    def _obey(self, order: Order) -> None:
        """One order of the store. Unknown verbs are a newer version's and none of ours."""
        if order.verb == "gateways":
            self._tasks.spawn(self._find_gateways(), "gateways.now")
        if order.target is None or (target := self.targets.get(order.target)) is None:
            return
        if order.verb == "wake":
            target.wake(Slot(order.slot) if order.slot in _SLOTS else None)
        elif order.verb == "probe":
            target.probe_wanted.set()
        elif order.verb in {"cancel", "attach"} and order.job_id is not None:
            target.orders.come(order, target.runs.get(order.job_id))

    # -- loops

    async def _every(self, seconds: float, step: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await step()
            except StoreUnavailableError as error:
                log.debug("store.unavailable", error=error.message)
            except Exception:  # a fault of ours costs this step, never all later ones
                log.exception("worker.step_failed", worker=self.id)
            await asyncio.sleep(seconds)

    async def _enroll(self) -> None:
        unreachable = () if self._channels is None else self._channels.unreachable()
        await self._queue.enroll(WorkerPresence(self.id, self._since, 0.0, (), foreman.__version__, unreachable))
        self._told_unreachable = unreachable

    async def _recover(self) -> None:
        for job_id in await self._queue.recover():
            log.info("job.recovered", job_id=job_id)
        await self._unheard.look(self.id)

    def _jobs(self) -> set[str]:
        """What runs here, until its end is written."""
        return {job_id for target in self.targets.values() for job_id in target.unsettled.values()}

    async def _find_gateways(self) -> None:
        assert self._channels is not None
        self._channels.update(await self._queue.gateways())
        await self._tell_links()

    def _links_changed(self) -> None:
        self._tasks.spawn(self._tell_links(), "links")

    async def _tell_links(self) -> None:
        """Say at once whom we can't reach: until we can, the store gives us no call that waits there."""
        assert self._channels is not None
        unreachable = self._channels.unreachable()
        if unreachable == self._told_unreachable:
            return
        with contextlib.suppress(StoreUnavailableError):
            if await self._queue.reach(self.id, unreachable):
                self._told_unreachable = unreachable
        for target in self.targets.values():
            target.wake()  # what was passed over may be had again

    async def _forget_renamed(self) -> None:
        """Take targets off the pool's list whose server we own under another name; the script spares those with an owner."""
        if not self.targets:
            return
        urls = {target.settings.url for target in self.targets.values()}
        for status in await self._queue.targets():
            if status.url in urls and status.name not in self.targets and await self._queue.forget(status.name):
                log.info("target.forgotten", target=status.name, url=status.url)

    async def _find_rivals(self) -> list[TargetStatus]:
        now = asyncio.get_running_loop().time()
        if now >= self._rivals_until:
            self._rivals = await self._queue.targets()
            self._rivals_until = now + (RIVALS if len(self._rivals) > 1 else ALONE)
        return self._rivals
