"""Whatever is typed wrongly, at any command: one line in words of our own, exit 2, and nothing is done.

The cases are made from the commands themselves, so that a new one is covered by being there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import EnumType
from pathlib import Path
from typing import Any, get_args

import pytest

from llmgate.cli.run import run
from llmgate.cli.typed import term

from .test_help import ALL

VERBS = {path: command for path, command in ALL.items() if not hasattr(command, "commands")}

OF_LIBRARIES = re.compile(
    r"Traceback|click|typer|pydantic\.|msgspec|Input should|Invalid value|Expected `|Missing |argument\(s\)|is a bug|"
    r"truncated|malformed|validation error",
    re.IGNORECASE,
)
GARBAGE = "\x1b!?"
RUNS_ON = ("serve", "demo", "top", "prices update")
"""What would go on, or ask the internet, if a strange word were taken."""


def parameters(command: Any) -> list[Any]:
    return [param for param in command.params if param.name != "help"]


def kind(param: Any) -> Any:
    found = param.type_descriptor.annotation
    return (get_args(found) or (found,))[0]


def arguments(command: Any, **instead: str) -> list[str]:
    """A word for each argument that must be there."""
    needed = [param for param in command.params if param.param_type_name == "argument" and param.required]
    return [instead.get(param.name, "7" if kind(param) is int else "word") for param in needed]


def wrong(path: str, command: Any) -> Iterator[list[str]]:
    """Command lines that can't be meant."""
    right = arguments(command)
    if all(param.nargs == 1 for param in command.params):
        most = sum(param.param_type_name == "argument" for param in command.params)
        yield [*["1"] * most, "extra"]
        yield [*["1"] * most, "two", "more"]
    if right:
        yield right[:-1]
    yield [*right, "--no-such-option"]
    yield [*right, "-X"]
    for param in parameters(command):
        option = term(param)
        if param.param_type_name == "argument":
            if kind(param) is int:
                yield from (arguments(command, **{param.name: text}) for text in ("x", "1.5", "", "9" * 40))
            continue
        if param.is_flag:
            yield [*right, f"{option}=3"]
            continue
        if option not in command.bare:
            yield [*right, option]
        if kind(param) is int:
            yield from ([*right, option, text] for text in ("x", "-1", "1.5", "", "9" * 40, "٣"))
        elif isinstance(kind(param), EnumType):
            yield from ([*right, option, text] for text in ("zzz", "", GARBAGE))


@pytest.mark.parametrize("path", VERBS)
def test_every_wrong_line_is_one_plain_line(path: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args in wrong(path, VERBS[path]):
        code = run([*path.split(), *args])
        out, err = capsys.readouterr()
        assert (code, out) == (2, ""), (args, err)
        assert re.fullmatch(r"llmgate: .+\n", err), (args, err)
        assert not OF_LIBRARIES.search(err.replace(path, "")), err
    assert list(home.iterdir()) == [], "nothing was done"


@pytest.mark.parametrize("path", [path for path in VERBS if path not in RUNS_ON])
def test_no_strange_text_is_met_in_a_librarys_words(path: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A text may be right or not, but what is said of it is ours."""
    command = VERBS[path]
    lines = [arguments(command, **{param.name: GARBAGE}) for param in command.params]
    lines += [
        [*arguments(command), f"{term(param)}={GARBAGE}"]
        for param in parameters(command)
        if param.param_type_name == "option" and not param.is_flag
    ]
    for args in lines:
        code = run([*path.split(), *args, "--yes"])
        err = capsys.readouterr().err
        assert code in (0, 1, 2, 3, 4), (args, err)
        assert not OF_LIBRARIES.search(err.replace(path, "")), (args, err)
        assert "\x1b" not in err, args


@pytest.mark.parametrize("number", ["1", "9" * 18])
def test_a_number_that_is_right_is_taken(number: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["usage", "--last", number]) == 0
    assert "no request" in capsys.readouterr().err
