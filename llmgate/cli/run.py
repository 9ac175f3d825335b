"""One run of the program: from the words of the command line to an exit code."""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import typer

from ..errors import CODES, Failure, LlmgateError, UsageError, reason
from .commands import application
from .session import Session, laid_out, note, visible

PROGRAM = "llmgate"
COMPLETING = "_LLMGATE_COMPLETE"
"""Set by a shell that asks what could be typed next."""


def run(args: Sequence[str]) -> int:
    """Run one command line; every error becomes one line on stderr and an exit code."""
    _prepare_streams()
    try:
        return _execute(list(args))
    except LlmgateError as error:
        return _fail(error, args)
    except typer.TyperException as error:
        return _fail(UsageError(error.format_message()), args)
    except typer.Abort:
        sys.stderr.write("\n")
        note("llmgate: nothing was changed")
        return 130
    except OSError as error:
        if error.errno == errno.EPIPE:
            return 0  # who read the output has seen enough
        return _fail(Failure(f"{error.filename or 'the output'}: {reason(error)}", code="file_error"), args)
    except Exception as error:
        if os.environ.get("LLMGATE_TRACEBACK"):
            traceback.print_exc()
        bug = f"{type(error).__name__}: {error}"
        return _fail(Failure(f"this is a bug in llmgate: {bug} (LLMGATE_TRACEBACK=1 shows where)"), args)


def _prepare_streams() -> None:
    """What was closed before the start swallows; what can't show a sign shows its code."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - for the whole run
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _execute(args: list[str]) -> int:
    _check_text(args)
    root, session = application(), Session()
    if COMPLETING in os.environ:
        from . import completion  # nobody else asks what could be typed

        completion.answer(root, args, PROGRAM)
    code = 0
    try:
        with root.make_context(PROGRAM, args, obj=session) as ctx:
            root.invoke(ctx)
        for text in session.afterwards:
            note(text)
    except typer.Exit as leave:
        code = leave.exit_code
    except BaseException:
        with suppress(OSError):  # what went wrong first says more
            sys.stdout.flush()
        raise
    sys.stdout.flush()
    return code


def _check_text(args: Sequence[str]) -> None:
    for word in args:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{word!r} is not valid UTF-8: set the locale of your terminal to UTF-8") from error


def _fail(error: LlmgateError, args: Sequence[str]) -> int:
    text = visible(error.message)
    if _json_wanted(args):
        line = json.dumps({"error": {"code": error.code, "message": error.message}})
    else:
        line = laid_out(f"{PROGRAM}: {text}")
    with suppress(OSError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    return CODES[error.code].exit


def _json_wanted(args: Sequence[str]) -> bool:
    """Whether errors are to be JSON: also where the command line itself is what is wrong."""
    words = list(args)
    if "--" in words:
        words = words[: words.index("--")]
    return "--json" in words or "--format=json" in words or ("--format", "json") in pairwise(words)
