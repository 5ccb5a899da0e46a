"""Order and loss: a thousand jobs tell forty receivers of all kinds, while the background process and the store are killed.

A ledger outside (the receivers) says what came; the store's own log says what was tried. Seeded; prints a table.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from standardwebhooks.webhooks import Webhook

from foreman.core.ids import UlidFactory
from foreman.core.jobs import TERMINAL, Priority, Slot, State, Surface
from foreman.store.client import Store, connect
from foreman.store.embedded import EmbeddedServer
from foreman.store.errors import StoreUnavailableError
from foreman.store.records import NewJob, Ownership, TargetStatus, WorkerPresence
from tests.conftest import StoreSettings
from tests.faults.background_apart import PACE
from tests.receivers import Receivers, Seen

if TYPE_CHECKING:
    from foreman.store.deliveries import Tried

SEED = 20_261_121
POOL = "faults"
HEALTHY = [f"/ok/{number}" for number in range(20)]
BAD = {
    f"/{kind}/{number}": script
    for kind, script in {
        "500": ["500"], "timeout": ["timeout"], "reset": ["reset"], "redirect": ["redirect"], "410": ["410"],
        "429": ["429", "ok", "ok"], "drip": ["drip"], "flaky": ["500", "ok", "reset", "ok", "timeout", "ok"],
        "garbage": ["garbage"], "drip-body": ["drip-body"],
    }.items()
    for number in range(2)
}  # fmt: skip
"""Twenty more; flaky ones repeat their script for ever."""
BOUND = 1.0
"""Seconds that an event to a healthy receiver may be late beside bad ones."""
WANTED = [(), (), (State.DONE, State.FAILED, State.CANCELLED), (State.WORKING, State.DONE)]
"""What jobs want to be told of, in turn; () is all."""
SEQ = {State.QUEUED: 1, State.LOADING: 2, State.WORKING: 3, State.DONE: 4}
new_id = UlidFactory(lambda: int(time.time() * 1000), random.Random(SEED).getrandbits)


class Ledger:
    """What was asked for, and the hands that move the jobs."""

    def __init__(self, store: Store, receivers: Receivers, chance: random.Random) -> None:
        self.store = store
        self.receivers = receivers
        self.chance = chance
        self.paths: dict[str, str] = {}
        """Job → path."""
        self.wanted: dict[str, set[int]] = {}
        """Job → seq of what it wants to be told of."""
        self.own: Ownership | None = None

    async def enroll(self) -> None:
        await self.store.queue.enroll(WorkerPresence("wk-1", 0.0, 0.0, ()))
        self.own = await self.store.queue.own("gpu1", "wk-1")
        assert self.own is not None
        await self.store.queue.publish(self.own, TargetStatus("gpu1", "http://x", "ollama", "up", 1.0, 2.0, "wk-1"))

    async def renew(self) -> None:
        while True:
            with contextlib.suppress(StoreUnavailableError):
                await self.store.queue.renew("wk-1")
            await asyncio.sleep(0.5)

    async def phase(self, paths: list[str], jobs: int, seconds: float) -> list[str]:
        """Jobs begun evenly over some seconds, each driven to its end."""
        made = []
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as group:
            for number in range(jobs):
                job_id, path = new_id(), paths[number % len(paths)]
                events = self.chance.choice(WANTED)
                self.paths[job_id] = path
                self.wanted[job_id] = {SEQ[state] for state in events if state in SEQ} or set(SEQ.values())
                made.append(job_id)
                group.create_task(self._drive(job_id, path, events, [self.chance.uniform(0, 0.1) for _ in range(3)]))
                await asyncio.sleep(max(0.0, began + seconds * number / jobs - loop.time()))
        return made

    async def _drive(self, job_id: str, path: str, events: tuple[State, ...], gaps: list[float]) -> None:
        """Through all four states; a reply that the store's death swallowed is looked up."""
        new = NewJob(
            id=job_id, surface=Surface.ASYNC, endpoint="/api/chat", model="m", canonical="m:latest", lane=f"lane-{job_id}",
            slot=Slot.DRAIN, priority=Priority.NORMAL, request=b"{}", max_wait=5.0, state_webhook_url=self.receivers.url + path,
            webhook_events=events,
        )  # fmt: skip
        queue, step = self.store.queue, 0
        while True:
            try:
                job = await queue.get(job_id)
                if job is None:
                    await queue.submit(new)
                elif job.state in TERMINAL:
                    return
                elif job.state is State.QUEUED:
                    assert self.own is not None
                    await queue.claim(self.own, new.lane, Slot.DRAIN, State.LOADING)
                else:
                    to = State.WORKING if job.state is State.LOADING else State.DONE
                    await queue.transition(job_id, job.epoch, to, reason="test")
            except StoreUnavailableError:
                await asyncio.sleep(0.1)
                continue
            await asyncio.sleep(gaps[min(step, 2)])
            step += 1

    async def settled(self, timeout: float) -> None:
        """Until no delivery is open."""
        left = set(self.paths)
        async with asyncio.timeout(timeout):
            while left:
                for job_id in list(left):
                    if not await self.store.deliveries.open(job_id):
                        left.discard(job_id)
                await asyncio.sleep(0.1)


def starved(pid: int) -> float:
    """Seconds that a process has wanted a core and had none (Linux; else 0): such time proves nothing about us."""
    try:
        return sum(int(stat.read_text().split()[1]) for stat in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9
    except OSError:
        return 0.0


def p95(receivers: Receivers, jobs: list[str]) -> float:
    """Seconds from a transition to its arrival at a healthy receiver."""
    wanted = set(jobs)
    offset = time.time() - time.monotonic()
    late = sorted(
        seen.began + offset - datetime.fromisoformat(seen.event["timestamp"]).timestamp()
        for path in HEALTHY
        for seen in receivers.seen[path]
        if seen.event["job_id"] in wanted
    )
    return late[int(len(late) * 0.95)]


def judge_job(job_id: str, arrived: list[Seen], tried: list[Tried], wanted: set[int]) -> tuple[list[str], str]:
    """What is wrong with one job's webhooks, and how its end went."""
    wrong = []
    told = {seen.event["seq"] for seen in arrived} | {line.seq for line in tried}
    wrong += [f"{job_id}: was told of {seq}, which it did not want" for seq in told - wanted]
    order = [seen.event["seq"] for seen in arrived]
    if order != sorted(order):
        wrong.append(f"{job_id}: arrived as {order}")
    bodies: dict[str, set[bytes]] = defaultdict(set)
    for seen in arrived:
        bodies[seen.id].add(seen.body)
        verifier = Webhook("whsec_" + base64.b64encode(b"the secret").decode())
        verifier.verify(seen.body, seen.headers)
    wrong += [f"{name}: {len(kinds)} different bodies" for name, kinds in bodies.items() if len(kinds) > 1]
    ends: dict[int, str] = {}
    for line in tried:
        if line.status is not None and 200 <= line.status < 300:
            ends[line.seq] = "delivered"
        elif line.status == 410:
            ends[line.seq] = "gone"
        elif line.attempt == 0:
            ends.setdefault(line.seq, line.error or "")
    gone = "gone" in ends.values()
    for seq in sorted(wanted):
        end = ends.get(seq)
        fine = {"delivered", "gone"} | ({"superseded"} if seq < 4 else {"exhausted"})
        if end not in fine and not (gone and end is None):
            wrong.append(f"{job_id}: event {seq} ended as {end}")
    made = [line for line in tried if line.seq == 4 and line.attempt]
    if len([seen for seen in arrived if seen.event["seq"] == 4]) < len(made):
        wrong.append(f"{job_id}: the log has attempts that nobody saw")
    if ends.get(4) == "exhausted" and len(made) < len(PACE.schedule):
        ended = datetime.fromisoformat(arrived[-1].event["timestamp"]).timestamp()
        if (
            made[-1].time < ended + PACE.span
        ):  # a broken receiver may put attempts off, for as long as the schedule takes
            wrong.append(f"{job_id}: given up after {len(made)} attempts in {made[-1].time - ended:.1f} s")
    return wrong, ends.get(4, "gone")


@pytest.mark.parametrize(("jobs", "seconds"), [(240, 2.0), pytest.param(1000, 6.0, marks=pytest.mark.slow)])
@pytest.mark.timeout(240)
async def test_order_and_loss(jobs: int, seconds: float, capsys):
    began = time.monotonic()
    folder = tempfile.mkdtemp(prefix="foreman-faults-")
    server = EmbeddedServer(folder)
    url = await asyncio.to_thread(server.start)
    procs: list[asyncio.subprocess.Process] = []

    async def background() -> None:
        program = ("-m", "tests.faults.background_apart")  # as a file, its folder would stand before the library
        env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        with Path(folder, "background.log").open("ab") as log:
            procs.append(
                await asyncio.create_subprocess_exec(
                    sys.executable, *program, url, POOL, stdout=log, stderr=log, env=env, cwd=folder
                )
            )

    try:
        async with Receivers() as receivers:
            receivers.kinds |= {path: script * (200 if "flaky" in path else 1) for path, script in BAD.items()}
            store = await connect(StoreSettings(POOL, max_queue=5000), url)
            ledger = Ledger(store, receivers, random.Random(SEED))
            await ledger.enroll()
            renewing = asyncio.get_running_loop().create_task(ledger.renew())
            await background()
            everybody = [path for pair in zip(HEALTHY, BAD, strict=True) for path in pair]
            warm = await ledger.phase(HEALTHY, 5, 0.1)  # until it has started
            some = sum(len(ledger.wanted[job_id]) for job_id in warm)
            await receivers.until(lambda it: sum(len(it.seen[path]) for path in HEALTHY) >= some, 30)
            alone = await ledger.phase(HEALTHY, jobs // 5, seconds)
            before = starved(procs[-1].pid)
            mixed = await ledger.phase(everybody, 2 * (jobs // 5), seconds)
            waited = starved(procs[-1].pid) - before

            async def kill() -> None:
                await asyncio.sleep(seconds * 0.3)
                procs[-1].send_signal(signal.SIGKILL)
                await procs[-1].wait()
                await background()
                await asyncio.sleep(seconds * 0.4)
                assert server.pid is not None
                os.kill(server.pid, signal.SIGKILL)  # its supervisor starts it again

            async with asyncio.TaskGroup() as group:
                group.create_task(kill())
                await ledger.phase(everybody, jobs - 3 * (jobs // 5) - len(warm), seconds)
            assert server.restarts == 1
            await ledger.settled(120)
            renewing.cancel()
            logs = {job_id: await store.deliveries.log(job_id) for job_id in ledger.paths}
            times = (p95(receivers, alone), p95(receivers, mixed), waited / seconds)
            report(ledger, logs, times, time.monotonic() - began, capsys)
            await store.close()
    finally:
        for proc in procs:
            with contextlib.suppress(ProcessLookupError):
                proc.kill()
            await proc.wait()
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def report(
    ledger: Ledger, logs: dict[str, list[Tried]], times: tuple[float, float, float], took: float, capsys
) -> None:
    alone, mixed, share = times
    arrived: dict[str, list[Seen]] = defaultdict(list)
    for path in ledger.receivers.seen.values():
        for seen in path:
            arrived[seen.event["job_id"]].append(seen)
    wrong = list(ledger.receivers.trouble)
    ends: dict[str, Counter[str]] = defaultdict(Counter)
    for job_id, path in ledger.paths.items():
        found, end = judge_job(
            job_id, sorted(arrived[job_id], key=lambda seen: seen.began), logs[job_id], ledger.wanted[job_id]
        )
        wrong += found
        kind = path.split("/")[1]
        ends[kind][end] += 1
        ends[kind]["requests"] += len(arrived[job_id])
        ends[kind]["superseded"] += sum(line.error == "superseded" for line in logs[job_id])
        ends[kind]["left out"] += 4 - len(ledger.wanted[job_id])
    columns = ("delivered", "exhausted", "gone", "superseded", "left out", "requests")
    with capsys.disabled():
        print(
            f"\n{len(ledger.paths)} jobs × 4 events, seed {SEED}, background and store killed once each, {took:.0f} s"
        )
        print(f"{'receiver':12}" + "".join(f"{name:>12}" for name in columns) + "   (the first three: terminal events)")
        for kind, counts in sorted(ends.items()):
            print(f"{kind:12}" + "".join(f"{counts[name]:>12}" for name in columns))
        print(f"p95 at healthy receivers: alone {alone * 1000:.0f} ms, beside the others {mixed * 1000:.0f} ms")
        print(f"beside the others the background process had to wait for a core {share:.0%} of the time")
        print(f"violations: {len(wrong)}")
    assert not wrong, "\n".join(wrong[:20])
    assert ends["ok"]["delivered"] == sum(path in HEALTHY for path in ledger.paths.values())
    assert mixed < max(3 * alone, BOUND) or share > 0.1, "a bad receiver delays nobody else"
