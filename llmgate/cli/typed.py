"""What was typed, read and refused in words of our own.

Typer would check values with pydantic, which takes a third of a command's time to import and complains in words of its
own; a handful of types doesn't need it.
"""

from __future__ import annotations

from enum import EnumType
from pathlib import Path
from typing import Any, get_args

from ..errors import UsageError
from ..names import quoted
from .suggest import choose

MOST = 2**63 - 1
"""The largest number that the database can hold; one with fewer digits fits."""


def read_values(params: list[Any]) -> list[Any]:
    """The same parameters, with the values read here."""
    for param in params:
        param._runtime_param = _Reader()
    return params


class _Reader:
    """What typer asks for the value of a parameter."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:  # noqa: ARG002
        kind = param.type_descriptor.annotation
        if param.nargs == -1 or getattr(param, "multiple", False):
            return tuple(_read(one, (get_args(kind) or (str,))[0], param) for one in value or ())
        return None if value is None else _read(value, kind, param)


def _read(value: Any, kind: Any, param: Any) -> Any:
    if not isinstance(value, str) or kind in (str, bool):
        return value  # a default, a flag, or a text as it is
    if kind is Path:
        return Path(value)
    if kind is int:
        return _number(value, param)
    assert isinstance(kind, EnumType), kind
    return kind(choose(term(param), value, list(kind)))


def _number(text: str, param: Any) -> int:
    info = param.type_descriptor.parameter_info
    least, most = info.min, info.max
    try:
        number = int(text) if text.isascii() and len(text) < len(str(MOST)) else None
    except ValueError:
        number = None
    if number is None or (least is not None and number < least) or (most is not None and number > most):
        span = f" from {least} to {most}" if most is not None else f", {least} or more" if least is not None else ""
        raise UsageError(f"{term(param)} must be a whole number{span}, not {text!r}")
    return number


def term(param: Any) -> str:
    """What help calls a parameter: `--last`, or `ENTRY`."""
    if param.param_type_name == "argument":
        return str(param.metavar or param.name.upper())
    return max(param.opts, key=len)  # type: ignore[no-any-return]


ELSEWHERE = {
    ("teams add", "--credits"): "credits add team:TEAM USD",
    ("users add", "--credits"): "credits add USER USD",
    ("teams add", "--limit"): "limits set team:TEAM SPEC",
    ("users add", "--limit"): "limits set USER SPEC",
}
"""Options that are asked for where another command does it."""


def refused(error: Any, ctx: Any) -> UsageError:
    """What the parser complains of, on one line and with what to do about it."""
    path = ctx.command_path
    option, param = getattr(error, "option_name", None), getattr(error, "param", None)
    if option is not None and option[1:2].isdigit() and path.endswith(" credits add"):
        return UsageError(f"{option} is no amount to add: `llmgate credits take USER USD` takes credits away")
    if option is not None and hasattr(error, "possibilities"):
        near = error.possibilities
        elsewhere = ELSEWHERE.get((path.partition(" ")[2], option))
        if elsewhere:
            return UsageError(f"there is no option {option!r} of `{path}`: afterwards, `llmgate {elsewhere}`")
        return UsageError(
            f"there is no option {option!r} of `{path}`: {f'did you mean {near[0]}?' if near else _see(path)}"
        )
    if option is not None:
        flag = next((one for one in ctx.command.params if option in one.opts), None)
        told = "takes no value" if flag is not None and flag.is_flag else "needs a value"
        return UsageError(f"{option} {told}: {_see(path)}")
    if param is not None:
        return UsageError(f"{term(param)} is missing: `{usage(ctx)}`")
    text = " ".join(str(error.format_message()).split()).rstrip(".")
    return UsageError(f"{text[:1].lower()}{text[1:]}: {_see(path)}")


def too_many(rest: list[str], ctx: Any) -> UsageError:
    """Words are left over."""
    what = "is one word" if len(rest) == 1 else f"are {len(rest)} words"
    return UsageError(f"{' '.join(map(quoted, rest))} {what} too many: `{usage(ctx)}`")


def usage(ctx: Any) -> str:
    """A command with its arguments, as it is typed."""
    arguments = [param for param in ctx.command.params if param.param_type_name == "argument"]
    return " ".join([ctx.command_path, *(term(one) if one.required else f"[{term(one)}]" for one in arguments)])


def _see(path: str) -> str:
    return f"see `{path} --help`"
