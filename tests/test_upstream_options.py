"""How to reach an upstream, as the config says it: proxies, authorities, who asks, where health is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmgate import config as conf
from llmgate.config import Config, InvalidConfig, parse, resolve
from llmgate.config.variables import upstreams_from_environment
from llmgate.presets import PRESETS
from tests import tls

DOCS = Path(__file__).parent.parent / "docs" / "upstreams.md"
PW = "proxy-password-3Wq"


def up(line: str) -> str:
    return f'[upstreams.up]\nbase_url = "https://h/v1"\nauth = "none"\n{line}'


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f'proxy = "https://u:{PW}@h:1"', "https:// is not supported"),
        (f'proxy = "socks5://u:{PW}@h:1"', "socks5:// is not supported"),
        (f'proxy = "{PW}:3128"', "must be http://host:port"),
        (f'proxy = "http://u:{PW}@h:70000"', "must be http://host:port"),
        (f'proxy = "http://h/{PW}"', "a proxy has no path"),
        ('health = "health"', 'a path, such as "/health"'),
        ("identify = 1", "must be true or false"),
        ('identify = true\nheaders = { x-user-id = "a" }', "must not have X-User-ID"),
    ],
)
def test_what_may_not_stand_there(line: str, words: str) -> None:
    with pytest.raises(InvalidConfig) as raised:
        parse(up(line))
    assert words in raised.value.problems[0]
    assert PW not in str(raised.value.problems)


def test_a_proxy_keeps_its_password_to_itself() -> None:
    for line in (f'proxy = "http://gate:{PW}@proxy:3128/"', 'proxy = "http://gate:${P}@proxy:3128"'):
        written = parse(up(line))
        ready = resolve(written, {"P": PW})
        assert ready.upstreams["up"].proxy == f"http://gate:{PW}@proxy:3128"
        assert PW not in conf.to_toml(written) + conf.to_toml(ready.config) + repr(ready)
        assert "http://***@proxy:3128" in conf.to_toml(written)


def test_a_ca_file_is_read_with_the_config(tmp_path: Path) -> None:
    path = tmp_path / "llmgate.toml"
    config = parse(up('ca_file = "corp.pem"'), path)
    with pytest.raises(InvalidConfig, match=r"upstreams\.up\.ca_file: .*corp\.pem can't be read \(there is no"):
        resolve(config, {})
    for text in ("", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        (tmp_path / "corp.pem").write_text(text)
        with pytest.raises(InvalidConfig, match="holds no certificate in PEM form"):
            resolve(config, {})
    made = tls.authority(tmp_path, "corp")
    assert resolve(config, {}).upstreams["up"].ca == made.pem


def test_where_health_is_told() -> None:
    found = conf.known_upstreams(
        parse('upstreams.ollama = {}\nupstreams.vllm = { base_url = "http://h", health = "/x" }')
    )
    assert (found["ollama"].health, found["vllm"].health) == ("/api/version", "/x")


# -- without any config


@pytest.mark.parametrize(
    ("env", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://p:1"}, "${HTTPS_PROXY}"),
        ({"https_proxy": "http://p:1"}, "${https_proxy}"),
        ({"HTTP_PROXY": "http://p:1", "ALL_PROXY": "http://p:1"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "localhost, .openai.com"}, None),
        ({"HTTPS_PROXY": "http://p:1", "no_proxy": "api.openai.com:443"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "enai.com"}, "${HTTPS_PROXY}"),
        ({"HTTPS_PROXY": "http://p:1", "OPENAI_BASE_URL": "http://10.0.0.5/v1"}, None),
    ],
)
def test_the_environment_names_its_proxy(env: dict[str, str], proxy: str | None) -> None:
    env = {"OPENAI_API_KEY": "sk", **env}
    found = upstreams_from_environment(env)
    assert found["openai"].proxy == proxy
    assert resolve(Config(upstreams=found), env).upstreams["openai"].proxy == (proxy and "http://p:1")


def test_a_config_names_its_own() -> None:
    env = {"OPENAI_API_KEY": "sk", "HTTPS_PROXY": "http://p:1"}
    assert resolve(parse("[upstreams.openai]", env=env), env).upstreams["openai"].proxy is None


# -- the docs


def test_the_docs_know_every_preset() -> None:
    rows = re.findall(r"(?m)^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|", DOCS.read_text(encoding="utf-8"))
    said = {name: (address, formats, auth, leaving) for name, address, formats, auth, leaving in rows}
    assert said == {
        name: (
            f"`{preset.base_url}`" if preset.base_url else "",
            ", ".join(preset.formats),
            f"`{preset.auth}`",
            preset.on_disconnect,
        )
        for name, preset in PRESETS.items()
    }
