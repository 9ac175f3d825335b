"""llmgate upstreams, in processes of its own, against real servers."""

from __future__ import annotations

import pytest
import tomli_w

from tests.replay import Replay, json_answer

from .conftest import Cli, plain

SECRET = "up-secret-9Lm"
MODELS = {"object": "list", "data": [{"id": "gpt-4o"}]}

CONFIG = """
[upstreams.openai]
api_key = ["${KEY_A}", "${KEY_B}"]
identify = true
proxy = "http://gate:password-5@proxy.example.org:3128"
headers = { X-Title = "intranet" }
[upstreams.azure]
base_url = "https://example.openai.azure.com/openai"
query = { api-version = "2024-10-21" }
[upstreams.gpu1]
base_url = "http://10.0.0.5:8080/v1"
preset = "llamacpp"
api_key = "written-7"
price = { input = 0.25, output = 0.5 }
ca_file = "corp.pem"
[upstreams.sandbox]
"""


def write(cli: Cli, text: str) -> None:
    (cli.folder / "llmgate.toml").write_text(text)


def test_listing(cli: Cli) -> None:
    write(cli, CONFIG)
    done = cli("upstreams", "--json", KEY_A=SECRET)
    openai, azure, gpu1, sandbox = done.json
    assert openai == {
        "upstream": "openai",
        "preset": "openai",
        "formats": ["openai"],
        "base_url": "https://api.openai.com/v1",
        "auth": "bearer",
        "secret": ["$KEY_A", "$KEY_B"],
        "secret_set": False,
        "on_disconnect": "cancel",
        "price": "list price",
        "cost": None,
        "catalogue": "openai",
        "identify": True,
        "proxy": "http://***@proxy.example.org:3128",
        "ca_file": None,
        "health": None,
        "ask_usage": True,
        "headers": ["X-Title"],
        "query": [],
        "timeout": {"connect": 5, "first_byte": 600, "idle": 300, "total": 3600},
    }
    assert (azure["auth"], azure["secret"], azure["secret_set"]) == ("header:api-key", ["$AZURE_OPENAI_API_KEY"], False)
    assert (gpu1["secret"], gpu1["secret_set"], gpu1["health"]) == (["the config"], True, "/health")
    assert (gpu1["price"], gpu1["ca_file"]) == ("input=0.25 output=0.5", "corp.pem")
    assert (sandbox["base_url"], sandbox["secret"], sandbox["secret_set"]) == (None, [], None)
    assert sandbox["price"] == "input=1 output=2"
    for shape in ("table", "csv", "md", "json"):
        text = cli("upstreams", "list", "--format", shape, KEY_A=SECRET).out
        assert not [secret for secret in (SECRET, "password-5", "written-7") if secret in text]
    assert cli("config", "show").out.count("***@proxy.example.org") == 1


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_it_fits_a_terminal(cli: Cli, columns: int) -> None:
    write(cli, CONFIG)
    lines = plain(cli.terminal("upstreams", columns=columns).out).splitlines()
    assert max(map(len, lines)) <= columns
    assert any("gpu1" in line for line in lines)


def test_a_check_that_finds_nothing(cli: Cli) -> None:
    with Replay() as up:
        up.answer(*json_answer(MODELS))
        write(cli, tomli_w.dumps({"upstreams": {"main": {"base_url": f"{up.url}/v1", "auth": "none"}, "sandbox": {}}}))
        done = cli("upstreams", "check")
        assert "all 2 upstreams answer" in done.out
        first, second = cli.data("upstreams", "check")
        assert (first["status"], first["models"], first["problems"]) == ("ok", 1, [])
        assert isinstance(first["latency_ms"], int)
        assert (second["upstream"], second["status"]) == ("sandbox", "ok")
        assert [row["upstream"] for row in cli.data("upstreams", "check", "sandbox")] == ["sandbox"]
    assert not (cli.folder / "llmgate.db").exists()


def test_a_check_that_finds_something(cli: Cli) -> None:
    with Replay() as up:
        up.answer(*json_answer({"error": {"message": f"wrong key {SECRET}"}}, 401))
        write(
            cli, tomli_w.dumps({"upstreams": {"main": {"base_url": f"{up.url}/v1", "api_key": "${K}"}, "sandbox": {}}})
        )
        done = cli("upstreams", "check", code=3, K=SECRET)
        assert "it refuses the secret (HTTP 401): look at $K" in done.out
        assert done.err == "llmgate: 1 of 2 upstreams can't answer as they should\n"
        machine = cli("upstreams", "check", "main", "--json", code=3, K=SECRET)
        assert machine.json[0]["status"] == "error"
        assert machine.error["code"] == "problems_found"
        for columns in (60, 80, 200):
            text = plain(cli.terminal("upstreams", "check", columns=columns, code=3, K=SECRET).out)
            assert "look at $K" in " ".join(text.split())
        assert SECRET not in done.out + done.err + machine.out + machine.err


def test_a_check_needs_every_secret(cli: Cli) -> None:
    write(cli, '[upstreams.openai]\napi_key = "${NOT_THERE}"\n')
    assert "upstreams.openai.api_key needs the environment variable NOT_THERE" in cli("upstreams", "check", code=1).err


def test_a_check_of_one_that_is_not_there(cli: Cli) -> None:
    write(cli, "[upstreams.sandbox]\n")
    assert "did you mean sandbox?" in cli("upstreams", "check", "sandbx", code=1).err
