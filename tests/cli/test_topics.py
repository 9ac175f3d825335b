"""`llmgate help`: what it tells is right, because every example in it is read by what it is an example of."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from zoneinfo import ZoneInfo

import pytest

from llmgate import clock, limits
from llmgate.cli.commands import ENTRIES, application
from llmgate.cli.help import TOPICS, VERBATIM, Block, source, topic
from llmgate.config import parse, resolve
from llmgate.errors import CODES
from llmgate.money import parse_usd

from .conftest import Cli, plain

UTC = ZoneInfo("UTC")
NOON_MS = 1_795_262_400_000
"""A Saturday."""

ENV = {"OPENAI_API_KEY": "sk-x"}

EXITS = sorted({verdict.exit for verdict in CODES.values()} | {0})

CHECKS: dict[str, Callable[[str], object]] = {
    "limit": limits.parse,
    "date": lambda term: clock.since_ms(term, NOON_MS, UTC),
    "duration": lambda term: clock.before_ms(term, NOON_MS, UTC),
    "usd": parse_usd,
    "exit": lambda term: EXITS.index(int(term)),
    "status": lambda term: _known(*term.split()),
    "step": int,
}
"""Of a kind of block: what takes its terms, and raises for those that it doesn't understand."""


def _known(status: str, code: str) -> None:
    assert CODES[code].http == int(status)


def blocks() -> list[Block]:
    return [block for name in TOPICS for block in topic(name).blocks]


@pytest.mark.parametrize("name", TOPICS)
def test_what_a_topic_says_is_understood(name: str) -> None:
    found = topic(name)
    assert found.summary
    for block in found.blocks:
        if block.kind in CHECKS:
            for term, text in block.pairs:
                CHECKS[block.kind](term)
                assert text
        elif block.kind == "toml":
            resolve(parse(block.text), ENV)
        else:
            assert block.kind in ("", "sh")


def test_every_kind_of_example_is_there() -> None:
    assert {block.kind for block in blocks()} == {"", *VERBATIM, *CHECKS}


def test_every_line_of_an_error_table_is_of_its_own() -> None:
    terms = [term for block in blocks() if block.kind == "status" for term, _ in block.pairs]
    assert len(terms) == len(set(terms))
    codes = {term.split()[1] for term in terms}
    of_clients = {
        code for code, verdict in CODES.items() if code in ("storage_busy",) or verdict.http in range(400, 500)
    }
    alike = {"missing_key", "key_expired", "key_disabled", "key_revoked"}
    of_pages = {
        "signed_out",
        "sign_in_refused",
        "page_not_allowed",
        "form_refused",
        "link_over",
    }  # which say it themselves
    assert of_clients - codes - alike - of_pages == {"conflict", "not_found", "method_not_allowed", "usage_error"}


@pytest.mark.parametrize("name", TOPICS)
def test_commands_that_a_topic_names_are_there(name: str) -> None:
    root = application()
    lines = [line for block in topic(name).blocks if block.kind == "sh" for line in block.text.splitlines()]
    lines += re.findall(r"`llmgate ([^`]+)`", source(name))
    for line in lines:
        if "_COMPLETE" in line:
            continue
        words = shlex.split(line.removeprefix("KEY=$(").removesuffix(")").removeprefix("llmgate "))
        if words[0] == "help":
            assert words[1] in TOPICS or words[1] == "TOPIC"
            continue
        if words[0] == "--install-completion":
            continue
        command = root.get_command(None, words[0])
        assert command is not None, line
        verbs = getattr(command, "commands", None)
        if verbs and len(words) > 1 and not words[1].startswith("-") and words[0] != "limits":
            assert words[1] in verbs, line


def test_topics_are_listed_and_found(cli: Cli) -> None:
    text = cli("help").out
    for name in TOPICS:
        assert f"\n  {name} " in text
        assert cli("help", name).out.startswith(f"{name}: ")


def test_a_topic_fits_its_terminal(cli: Cli) -> None:
    lines = plain(cli.terminal("help", "limits", columns=60).out).splitlines()
    assert max(map(len, lines)) <= 60
    assert "\x1b[1m" in cli.terminal("help", "limits").out
    assert "\x1b[" not in cli("help", "limits").out


def test_help_of_a_command_is_what_the_command_says(cli: Cli) -> None:
    assert cli("help", "keys", "add").out == cli("keys", "add", "--help").out
    assert cli("help", "report").out == cli("report", "--help").out
    assert {*ENTRIES} - {*TOPICS} >= {"users", "serve"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["lmits"], "did you mean limits?"),
        (["reprot"], "did you mean report?"),
        (["keys", "ad"], "did you mean add?"),
        (["keys", "add", "now"], "see `llmgate keys add --help`"),
        (["xyzzy"], "see `llmgate help --help`"),
    ],
)
def test_an_unknown_word_finds_the_nearest(cli: Cli, words: list[str], told: str) -> None:
    assert told in cli("help", *words, code=2).err
