"""Settings: what each variable may say, and the one sentence for what it may not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from foreman.core.jobs import Priority
from foreman.settings import NamedToken, Settings, SettingsError, load, unknown_variables

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without `.env`, and an environment without settings."""
    import os

    for name in [name for name in os.environ if name.startswith("FOREMAN_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def given(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(f"FOREMAN_{name}", value)
    return load()


def test_defaults_are_those_of_the_docs():
    settings = load()
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert settings.loopback
    assert not settings.guarded
    assert settings.model_management
    assert settings.keep_alive == "-1"
    assert settings.due_after == {Priority.HIGH: 5.0, Priority.NORMAL: 120.0, Priority.LOW: 1800.0}
    assert [(target.name, target.url, target.kind, target.slots) for target in settings.target_list] == [
        ("ollama", "http://127.0.0.1:11434", "ollama", 1)
    ]
    assert settings.link_bind == settings.link_announce == "127.0.0.1:0"
    assert settings.redis_url is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20", 20), ("250ms", 0.25), ("1.5h", 5400), (".5s", 0.5), ("2m", 120), ("0", 0), ("0s", 0), (" 3s ", 3)],
)
def test_durations(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float):
    assert given(monkeypatch, HEADERS_AFTER=text).headers_after == seconds


@pytest.mark.parametrize(
    ("text", "count"), [("65536", 65536), ("1MiB", 1 << 20), ("1.5KiB", 1536), ("2gib", 2 << 30), ("1B", 1)]
)
def test_sizes(monkeypatch: pytest.MonkeyPatch, text: str, count: int):
    assert given(monkeypatch, MAX_BODY=text, STORE_BYTES="4GiB").max_body == count


def test_one_request_and_one_answer_must_fit_the_store(monkeypatch: pytest.MonkeyPatch):
    assert given(monkeypatch, MAX_BODY="1MiB", MAX_ANSWER="1MiB", STORE_BYTES="2MiB").store_bytes == 2 << 20
    with pytest.raises(SettingsError, match="FOREMAN_STORE_BYTES is 2097151: use at least as much as FOREMAN_MAX_BODY"):
        given(monkeypatch, MAX_BODY="1MiB", MAX_ANSWER="1MiB", STORE_BYTES="2097151")


WRONG = [
    ("HEARTBEAT", "soon", "such as 30s"),
    ("HEARTBEAT", "-1s", "such as 30s"),
    ("HEARTBEAT", "0", "above 0"),
    ("HEARTBEAT", "1e3", "such as 30s"),
    ("HEARTBEAT", "5M", "such as 30s"),
    ("HEARTBEAT", "9" * 400, "such as 30s"),
    ("MAX_BODY", "3MB", "64MiB"),
    ("MAX_BODY", "0", "64MiB"),
    ("INSECURE", "1", "true or false"),
    ("INSECURE", "yes", "true or false"),
    ("MAX_ATTEMPTS", "0", "from 1"),
    ("MAX_QUEUE", "many", "from 1"),
    ("SWAP_BUDGET", "1", "strictly between 0 and 1"),
    ("SWAP_BUDGET", "0", "strictly between 0 and 1"),
    ("SWAP_BUDGET", "nan", "strictly between 0 and 1"),
    ("WEBHOOK_ALLOW", "10.0.0.0/99", "*.suffix"),
    ("WEBHOOK_ALLOW", "host:0", "*.suffix"),
    ("WEBHOOK_ALLOW", "http://host", "*.suffix"),
    ("WEBHOOK_SCHEDULE", "0s,soon", "0s,5s,30s"),
    ("WEBHOOK_SCHEDULE", "169h", "at most 7 days"),
    ("DUE_AFTER", "high=5s,mid=2m", "high=5s,normal=2m,low=30m"),
    ("DUE_AFTER", "high", "high=5s,normal=2m,low=30m"),
    ("KEEP_ALIVE", "5x", "15m"),
    ("ADDR", "8080", "127.0.0.1:8080"),
    ("ADDR", "localhost", "127.0.0.1:8080"),
    ("ADDR", "127.0.0.1:99999", "127.0.0.1:8080"),
    ("ADDR", "[::zz]:80", "[::1]:8080"),
    ("OLLAMA_URL", "localhost:11434", "http://127.0.0.1:11434"),
    ("TARGETS", "gpu1", "name=url"),
    ("TARGETS", "a=http://x:1,a=http://y:1", "stands twice"),
    ("TARGETS", "a=http://x:1?slots=0", "from 1 on"),
    ("TARGETS", "a=http://x:1?kind=vllm", "ollama or openai"),
    ("TARGETS", "a=http://x:1?pen=b", "is no option"),
    ("TARGETS", "a=http://x:1?kind=openai&pin=b", "leave pin out"),
    ("TARGETS", "a=http://x:1?never=b&pin=a;b:latest", "keeps it away"),
    ("TARGETS", "a=http://x:1?only=b&pin=a", "keeps it away"),
    ("IDLE_UNLOAD", "0", "such as 30m"),
    ("TARGETS", "a=http://x:1?token_env=NOT_SET", "NOT_SET"),
    ("TARGETS", " , ", "at least one target"),
    ("TARGETS_FILE", "/no/such/file", "can't be read"),
    ("REDIS_URL", "127.0.0.1:6379", "redis://"),
    ("POOL", "a b", "letters"),
    ("DURABILITY", "never", "everysec or always"),
    ("LOG", "xml", "console or json"),
    ("LINK_ADDR", "7480", "host:port"),
    ("LINK_ADDR", "0.0.0.0:7480,:7480", "announced"),
    ("LINK_ADDR", "a:1,b:2,c:3", "bind,announced"),
    ("LINK_KEY", "/key.pem", "FOREMAN_LINK_CERT"),
    ("ORIGINS", "chat.example.com", "https://"),
    ("ORIGINS", "https://*.*.example.com", "one *"),
]


@pytest.mark.parametrize(("name", "value", "advice"), WRONG)
def test_a_wrong_value_is_one_sentence_with_variable_value_and_advice(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, advice: str
):
    with pytest.raises(SettingsError) as caught:
        given(monkeypatch, **{name: value})
    sentence = str(caught.value)
    assert f"FOREMAN_{name}" in sentence
    assert advice in sentence
    assert "\n" not in sentence
    if name not in {"REDIS_URL", "LINK_KEY"}:
        assert value.strip() in sentence


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKEN", "my s3cret"),
        ("TOKENS", "webui=my s3cret"),
        ("TOKENS", "a=s3cret,b=s3cret"),
        ("TOKENS", "a=s3cret?priority=urgent"),
        ("TOKENS", "s3cret"),
        ("LINK_SECRET", "my s3cret"),
        ("OLLAMA_TOKEN", "my s3cret"),
        ("REDIS_URL", "tcp://:s3cret@host"),
        ("OLLAMA_URL", "http://me:s3cret@host"),
        ("TARGETS", "a=http://me:s3cret@host"),
    ],
)
def test_no_sentence_shows_a_secret(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    with pytest.raises(SettingsError) as caught:
        given(monkeypatch, **{name: value})
    assert f"FOREMAN_{name}" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_no_repr_shows_a_secret(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VLLM", "s3cret")
    settings = given(
        monkeypatch,
        TOKEN="s3cret",
        TOKENS="a=s3cretA",
        READ_TOKEN="s3cret",
        OLLAMA_TOKEN="s3cret",
        LINK_SECRET="s3cret",
        REDIS_URL="redis://:s3cret@host",
        TARGETS="b=http://x:1?token_env=VLLM",
    )
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in repr(settings.target_list)
    assert settings.target_list[0].token == "s3cret"


def test_targets_with_all_their_options(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VLLM", "t0ken")
    settings = given(
        monkeypatch,
        OLLAMA_TOKEN="ours",
        TARGETS="gpu1=http://10.0.0.5:11434/?slots=2&resident=3&only=a;b&never=c, "
        "v=https://vllm.lan/base?kind=openai&token_env=VLLM",
    )
    gpu, vllm = settings.target_list
    assert (gpu.name, gpu.url, gpu.slots, gpu.resident) == ("gpu1", "http://10.0.0.5:11434", 2, 3)
    assert (gpu.only, gpu.never, gpu.token) == (("a", "b"), ("c",), "ours")
    assert (vllm.url, vllm.kind, vllm.slots, vllm.token) == ("https://vllm.lan/base", "openai", 8, "t0ken")
    assert not settings.model_management


def test_a_targets_file_holds_one_a_line(monkeypatch: pytest.MonkeyPatch, nowhere: Path):
    file = nowhere / "targets"
    file.write_text("# ours\na=http://x:1\n\nb=http://y:1?slots=2\n")
    assert [target.name for target in given(monkeypatch, TARGETS_FILE=str(file)).target_list] == ["a", "b"]
    with pytest.raises(SettingsError, match="keep one"):
        given(monkeypatch, TARGETS="a=http://x:1")


def test_a_targets_file_is_read_again(monkeypatch: pytest.MonkeyPatch, nowhere: Path):
    file = nowhere / "targets"
    file.write_text("a=http://x:1?pin=m;n\n")
    settings = given(monkeypatch, TARGETS_FILE=str(file), IDLE_UNLOAD="30m")
    assert settings.target_list[0].pin == ("m", "n")
    assert settings.idle_unload == 1800
    file.write_text("b=http://y:1\n")
    assert [target.name for target in settings.read_targets()] == ["b"]
    assert [target.name for target in settings.target_list] == ["a"]
    file.write_text("b\n")
    with pytest.raises(ValueError, match="write name=url"):
        settings.read_targets()


def test_named_tokens(monkeypatch: pytest.MonkeyPatch):
    settings = given(monkeypatch, TOKENS="webui=t=o?k?priority=high,n8n=tok")
    assert settings.tokens == (NamedToken("webui", "t=o?k", Priority.HIGH), NamedToken("n8n", "tok", None))
    assert settings.guarded


def test_a_class_left_out_keeps_its_default(monkeypatch: pytest.MonkeyPatch):
    assert given(monkeypatch, DUE_AFTER="high=15s").due_after == {
        Priority.HIGH: 15.0,
        Priority.NORMAL: 120.0,
        Priority.LOW: 1800.0,
    }


@pytest.mark.parametrize(
    ("addr", "host", "loopback", "url"),
    [
        (":8080", "", False, "http://127.0.0.1:8080"),
        ("0.0.0.0:80", "0.0.0.0", False, "http://127.0.0.1:80"),
        ("[::1]:8080", "::1", True, "http://[::1]:8080"),
        ("localhost:8080", "localhost", True, "http://localhost:8080"),
        ("127.9.9.9:8080", "127.9.9.9", True, "http://127.9.9.9:8080"),
        ("10.0.0.1:8080", "10.0.0.1", False, "http://10.0.0.1:8080"),
    ],
)
def test_where_it_listens(monkeypatch: pytest.MonkeyPatch, addr: str, host: str, loopback: bool, url: str):
    settings = given(monkeypatch, ADDR=addr)
    assert (settings.host, settings.loopback, settings.gateway_url) == (host, loopback, url)
    assert settings.model_management == loopback


def test_beyond_loopback_it_wants_a_token(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(SettingsError, match="FOREMAN_TOKEN"):
        given(monkeypatch, ADDR=":8080").check_exposed()
    with pytest.raises(SettingsError, match="FOREMAN_TOKEN"):
        given(monkeypatch, READ_TOKEN="look").check_exposed()  # it closes nothing by itself
    given(monkeypatch, TOKENS="a=b").check_exposed()
    monkeypatch.delenv("FOREMAN_TOKENS")
    given(monkeypatch, INSECURE="true").check_exposed()
    load(addr="127.0.0.1:1", insecure=False).check_exposed()


def test_link_address_bound_and_announced(monkeypatch: pytest.MonkeyPatch):
    settings = given(monkeypatch, LINK_ADDR="0.0.0.0:7480,gateway:7480")
    assert (settings.link_bind, settings.link_announce) == ("0.0.0.0:7480", "gateway:7480")


def test_env_file_is_read_and_the_environment_goes_before_it(monkeypatch: pytest.MonkeyPatch, nowhere: Path):
    (nowhere / ".env").write_text(
        "FOREMAN_HEARTBEAT=3s\nFOREMAN_POOL=file\nVLLM=t0ken\nFOREMAN_HEARBEAT=1\n"
        "FOREMAN_TARGETS=a=http://x:1?kind=openai&token_env=VLLM\n"
    )
    settings = given(monkeypatch, POOL="env")
    assert (settings.heartbeat, settings.pool) == (3.0, "env")
    assert settings.target_list[0].token == "t0ken"
    assert unknown_variables() == ["FOREMAN_HEARBEAT is no setting of this version: did you mean FOREMAN_HEARTBEAT?"]


def test_an_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch):
    settings = given(monkeypatch, TOKEN="", HEARTBEAT="", TARGETS="")
    assert settings.token is None
    assert settings.heartbeat == 15.0
    assert settings.target_list[0].name == "ollama"


def test_a_setting_of_another_version_is_not_taken_in_silence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FOREMAN_REPLICAS", "3")
    (sentence,) = unknown_variables()
    assert re.match(r"FOREMAN_REPLICAS is no setting of this version", sentence)


def test_webhooks(monkeypatch: pytest.MonkeyPatch):
    settings = given(
        monkeypatch,
        WEBHOOK_SECRET="whsec_bmV3, old",
        WEBHOOK_ALLOW="10.0.0.0/8,*.lan:80,[::1]:9,LocalHost",
        WEBHOOK_SCHEDULE="0,1m",
    )
    assert settings.webhook_secret == ("whsec_bmV3", "old")
    assert [(str(rule.network or rule.host), rule.port) for rule in settings.webhook_allow] == [
        ("10.0.0.0/8", None), ("*.lan", 80), ("::1/128", 9), ("localhost", None),
    ]  # fmt: skip
    assert settings.webhook_schedule == (0.0, 60.0)
    assert "whsec" not in repr(settings)
    with pytest.raises(SettingsError, match=r"FOREMAN_WEBHOOK_SECRET is wrong: .*openssl rand"):
        given(monkeypatch, WEBHOOK_SECRET="whsec_???")


@pytest.mark.parametrize(
    ("text", "kept"), [("-1", "-1"), ("300", "300"), ("15m", "15m"), ("0", "0"), ("1h30m", "1h30m")]
)
def test_keep_alive_is_kept_as_written(monkeypatch: pytest.MonkeyPatch, text: str, kept: str):
    assert given(monkeypatch, KEEP_ALIVE=text).keep_alive == kept
