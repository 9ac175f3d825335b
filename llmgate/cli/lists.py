"""Price lists that are named on the command line."""

from __future__ import annotations

import sys
from pathlib import Path

from .. import pricelists
from ..errors import UsageError, reason


def read_list(file: str, form: str) -> pricelists.Read:
    """A price list in a file. Raises UsageError."""
    body = read_bytes(file)
    try:
        return pricelists.read(body.decode("utf-8-sig"), form)
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is no text in UTF-8") from error
    except UsageError as error:
        raise UsageError(f"{file}: {error.message}") from error


def read_bytes(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"{file} can't be read: {reason(error)}") from error
