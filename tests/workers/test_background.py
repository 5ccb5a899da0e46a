"""The background role: it lives, shows it, sweeps, and leaves."""

from foreman.settings import load
from foreman.store.client import redis_client
from tests.workers.conftest import wait_until
from workers import maintenance
from workers.background import Background


async def test_it_shows_a_sign_of_life_and_leaves(store, pool, valkey, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    background = Background(load(redis_url=valkey, pool=pool), store)
    await background.start()
    async with redis_client(valkey) as client:
        await wait_until(lambda: client.exists(f"foreman:{pool}:arq:health"))
    await background.stop()


async def test_the_sweep_recovers(store):
    assert await maintenance.sweep({"queue": store.queue}) == 0
