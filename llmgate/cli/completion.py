"""What could be typed next, for a shell in which Tab was pressed: fast, silent, and without leaving a trace.

    shell ─► _LLMGATE_COMPLETE=complete_bash llmgate ─► typer finds the option or the argument ─► WORDS

Commands say nothing for it: help calls a value USER, KEY or table|json|csv|md, and that tells what can stand there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import LlmgateError

if TYPE_CHECKING:
    from ..config import Config
BREAKS = ":="
"""Bash takes these for words of their own, and replaces only what stands behind them."""


class Word(NamedTuple):
    """What may be typed, and what it means."""

    value: str
    help: str | None = None


def answer(root: Any, args: list[str], program: str) -> None:
    """Write what fits, as the shell takes it, and leave. Whatever is wrong is no matter of a Tab: then nothing fits."""
    try:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
            _join_words()
            root.main(args, prog_name=program)
    except Exception:
        raise SystemExit(1) from None


def _join_words() -> None:
    """Give the words of bash, one on each line, back their colons and equal signs: `team`, `:`, `res` is `team:res`."""
    if "\n" not in os.environ.get("COMP_WORDS", ""):
        return
    first, *words = os.environ["COMP_WORDS"].split("\n")[: int(os.environ["COMP_CWORD"]) + 1]
    joined: list[str] = []
    for word in words:
        if joined and (word[:1] in (*BREAKS,) or joined[-1][-1:] in (*BREAKS,)):
            joined[-1] += word
        else:
            joined.append(word)
    os.environ |= {"COMP_WORDS": "\n".join([first, *joined]), "COMP_CWORD": str(len(joined))}


def attached(params: list[Any]) -> list[Any]:
    """The same parameters, which know what could be typed for them."""
    for param in params:
        param.shell_complete = lambda ctx, start, param=param: fitting(_of(param, ctx, start), start)
    return params


def fitting(words: Iterable[str | Word], start: str) -> list[Word]:
    """Of some words those that begin so, without what bash won't replace."""
    typed = max(start.rfind(sign) for sign in BREAKS) + 1 if "COMP_WORDS" in os.environ else 0
    found = (word if isinstance(word, Word) else Word(word) for word in words)
    return [Word(word.value[typed:], word.help) for word in found if word.value.startswith(start)]


def _of(param: Any, ctx: Any, start: str) -> Iterable[str | Word]:
    name = param.opts[0] if param.param_type_name == "option" else param.name
    meaning = param.metavar or ""
    if "|" in meaning:
        return meaning.split("|")
    choose = WORDS.get(name) or WORDS.get(meaning)
    try:
        return list(choose(ctx, start)) if choose else ()
    except LlmgateError:  # no config, no database, or one that can't be read
        return ()


# ── what there is ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _config(ctx: Any) -> Config:
    from .context import config_of  # commands and options are completed without it

    return config_of(ctx)


def _named(what: str) -> Callable[[Any, str], list[str]]:
    def names(ctx: Any, start: str) -> list[str]:
        from ..store import known
        from .context import store_path

        return known.names(store_path(ctx), what, start)

    return names


_users, _teams = _named("users"), _named("teams")


def _keys(ctx: Any, start: str) -> Iterator[str]:
    yield from _named("keys")(ctx, start)
    yield from _named("key ids")(ctx, start)


def _accounts(ctx: Any, start: str) -> Iterator[str]:
    yield from _users(ctx, start)
    yield from (f"team:{name}" for name in _teams(ctx, ""))


def _user(ctx: Any, start: str) -> Iterable[str]:
    """Credits are a user's or a team's, everything else is a user's."""
    is_account = ctx.parent.info_name == "credits"
    return _accounts(ctx, start) if is_account else _users(ctx, start)


def _targets(ctx: Any, start: str) -> Iterator[str]:
    yield from _accounts(ctx, start)
    if start:
        yield from (f"user:{name}" for name in _users(ctx, ""))
    yield from (f"key:{name}" for name in _named("key ids")(ctx, ""))


def _plans(ctx: Any, start: str) -> Iterable[str]:  # noqa: ARG001
    return _config(ctx).plans


def _upstreams(ctx: Any, start: str) -> Iterable[str]:  # noqa: ARG001
    if ctx.info_name == "init":
        from ..presets import PRESETS

        return PRESETS
    return _config(ctx).upstreams


def _models(ctx: Any, start: str) -> Iterable[str]:
    """Those of the config, those with a price of their own, and those that were used lately: the catalogue is slow."""
    return sorted({*_config(ctx).models, *_named("models")(ctx, start)})


def _groups(ctx: Any, start: str) -> Iterable[str]:  # noqa: ARG001
    from ..store.reports import GROUPS

    return GROUPS


def _zones(ctx: Any, start: str) -> Iterable[str]:  # noqa: ARG001
    from zoneinfo import available_timezones

    return sorted(available_timezones())


def _topics(ctx: Any, start: str) -> Iterable[str | Word]:  # noqa: ARG001
    """After `help`: a topic or a command, and then its verbs."""
    from .help import TOPICS, topic

    said = ctx.params.get("words") or ()
    if said:
        command = ctx.find_root().command.get_command(ctx, said[0]) if len(said) == 1 else None
        return getattr(command, "commands", ())
    topics = [Word(name, topic(name).summary) for name in TOPICS]
    return [*topics, *(word for word in ctx.find_root().command.words() if word.value not in TOPICS)]


WORDS: dict[str, Callable[[Any, str], Iterable[str | Word]]] = {
    "USER": _user,
    "FROM": _accounts,
    "TO": _accounts,
    "TARGET": _targets,
    "TEAM": lambda ctx, start: _teams(ctx, start),
    "KEY": _keys,
    "PLAN": _plans,
    "MODEL": _models,
    "GLOB": _models,
    "ZONE": _zones,
    "TOPIC": _topics,
    "--upstream": _upstreams,
    "name": _upstreams,
    "--by": _groups,
}
"""By an option's name, an argument's, or what help calls the value."""
