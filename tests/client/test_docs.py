"""What docs/clients.md tells Python programs to write is run as it stands there."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Any

from foreman.demo.ollama import FakeOllama
from tests.needs import ROOT
from tests.rig import rig

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def test_the_python_of_the_clients_page_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "clients.md").read_text()
    (code,) = re.findall(r"```python\n(from foreman\.client.*?)```", text, re.DOTALL)
    async with FakeOllama(models=["llama3.2"], tokens=8) as fake, rig(tmp_path, f"main={fake.url}") as house:
        given: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
        program = code.replace("http://127.0.0.1:8080", house.url, 1)
        exec(f"async def program(messages):\n{textwrap.indent(program, '    ')}", given)
        await given["program"](given["messages"])
    out = capsys.readouterr().out
    assert "answering, 1 token\n" in out
    assert "'done': True" in out
