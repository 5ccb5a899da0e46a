"""Story: hand a job over and never ask again. Each of its states comes by webhook: signed, in order, with the answer."""

from __future__ import annotations

import aiohttp
from standardwebhooks.webhooks import Webhook

from foreman.demo.ollama import FakeOllama
from tests.receivers import Receivers
from tests.rig import rig

SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
JOB = {"model": "alpha", "messages": [{"role": "user", "content": "hello"}], "metadata": {"order": 7}}


async def test_a_job_tells_its_states_and_its_answer(tmp_path):
    async with (
        FakeOllama(models=["alpha"], tokens=4, token_seconds=0.001) as fake,
        Receivers() as receivers,
        rig(tmp_path, f"main={fake.url}", webhook_allow="127.0.0.1", webhook_secret=SECRET) as house,
        aiohttp.ClientSession() as session,
    ):
        receivers.kinds["/hook"] = ["ok", "ok", "ok", "500", "ok"]
        job = JOB | {"state_webhook_url": receivers.url + "/hook"}
        async with session.post(house.url + "/jobs", json=job) as reply:
            assert reply.status == 202, await reply.text()
            job_id = (await reply.json())["job_id"]
        await receivers.until(lambda it: len(it.seen["/hook"]) == 5, 30)
        seen = receivers.seen["/hook"]
        assert [one.event["state"] for one in seen] == ["queued", "loading", "working", "done", "done"]
        assert [one.event["seq"] for one in seen] == [1, 2, 3, 4, 4]
        assert seen[3].body == seen[4].body, "a retry sends the same bytes"
        for one in seen:
            Webhook(SECRET).verify(one.body, one.headers)
            assert one.event["metadata"] == {"order": 7}
        done = seen[-1].event
        assert done["result"]["done"] is True
        assert done["result"]["message"]["content"]
        assert done["artifacts"][0]["inline"] == done["result"]
        shown = await house.get(f"/jobs/{job_id}")
        assert shown == done, "who asks reads what was told"
        deliveries = (await house.get(f"/jobs/{job_id}/deliveries"))["deliveries"]
        assert [(line["seq"], line["attempt"], line["status"]) for line in deliveries][:4] == [
            (1, 1, 200), (2, 1, 200), (3, 1, 200), (4, 1, 500),
        ]  # fmt: skip


async def test_a_receiver_that_is_no_public_address_is_refused_with_the_line_to_add(tmp_path):
    async with (
        FakeOllama(models=["alpha"]) as fake,
        rig(tmp_path, f"main={fake.url}") as house,
        aiohttp.ClientSession() as session,
    ):
        for url in (
            "http://127.0.0.1:9/x",
            "http://localhost:9/x",
            "http://[::ffff:7f00:1]:9/",
            "http://2130706433:9/",
        ):
            async with session.post(house.url + "/jobs", json=JOB | {"state_webhook_url": url}) as reply:
                assert reply.status == 422
                message = (await reply.json())["error"]["message"]
                assert "FOREMAN_WEBHOOK_ALLOW=" in message or "disguise" in message
