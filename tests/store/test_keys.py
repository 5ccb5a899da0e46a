"""Keys: each name spelled one way, and told apart from every other."""

from __future__ import annotations

import pytest
from lupa.lua51 import LuaRuntime

from foreman.store import keys as k

KEYS = k.Keys("night")
FILLED = {"id": "01ABC", "slot": "drain", "lane": "sha256:1|num_ctx=4@gpu:1", "state": "working", "surface": "sync",
          "name": "gpu:1", "kind": "worker",
          "digest": "0f", "span": "h498687",
          "url": "http://x:9/hook?a=b"}  # fmt: skip


@pytest.mark.parametrize("template", k.TEMPLATES, ids=lambda template: template.name)
def test_python_and_lua_spell_alike_and_the_name_tells_its_template(template: k.Template) -> None:
    parts = [FILLED[part] for part in template.parts]
    key = KEYS.of(template, *parts)
    assert key.startswith("foreman:night:")
    assert KEYS.template(key) is template
    lua = LuaRuntime()
    lua.execute("KEYS = {'foreman:night:'}")
    named = [f"p[{number}]" for number, _ in enumerate(parts, 1)]
    assert lua.execute(f"local p = {{...}} return {template.lua(named)}", *parts) == key
    assert template.kind in {"string", "hash", "list", "set", "zset", "stream"}
    assert template.holds


def test_names_are_unique() -> None:
    assert len({template.name for template in k.TEMPLATES}) == len(k.TEMPLATES)
    assert len({template.pattern for template in k.TEMPLATES}) == len(k.TEMPLATES)


@pytest.mark.parametrize("key", ["foreman:night:nonsense", "foreman:day:totals", "totals", "foreman:night:job:"])
def test_what_is_not_ours(key: str) -> None:
    assert KEYS.template(key) is None


def test_a_lane_may_be_named_anything() -> None:
    for lane in ("a:b", "facts", "lane:x", "ü\n", "x:request"):
        assert KEYS.template(KEYS.of(k.LANE, "drain", lane)) is k.LANE
        assert KEYS.template(KEYS.of(k.FACTS, "drain", lane)) is k.FACTS


def test_what_may_stay_for_ever_is_little() -> None:
    assert {template.name for template in k.PERMANENT} == {
        "totals",
        "epochs",
        "pulse",
        "pauses",
        "meters",
        "payload",
        "changes",
        "ledger",
        "link_secret",
    }
