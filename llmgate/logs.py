"""The daemon's log: one line per request and per event worth telling, as text or JSON, to stderr and perhaps a file."""

from __future__ import annotations

import logging
import os
import sys
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

import msgspec

from .clock import rfc3339
from .config import Log
from .errors import ConfigError, reason


class _Formatter(logging.Formatter):
    """`several`: processes write, so each line says which one."""

    def __init__(self, *, several: bool = False) -> None:
        super().__init__()
        self.several = several


class Text(_Formatter):
    """`2026-11-20T10:00:00.123Z info llmgate.request[4711] 200 alice chat gpt-4o 12+40 tokens 531 ms req_…`"""

    def format(self, record: logging.LogRecord) -> str:
        name = f"{record.name}[{record.process}]" if self.several else record.name
        line = f"{rfc3339(int(record.created * 1000))} {record.levelname.lower()} {name} {record.getMessage()}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class Json(_Formatter):
    """One object per line; a request's fields stand at its top level."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": rfc3339(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            **({"pid": record.process} if self.several else {}),
            **getattr(record, "request", {"message": record.getMessage()}),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields).decode()


FORMATS: dict[str, type[_Formatter]] = {"text": Text, "json": Json}


def check(file: Path) -> None:
    """Raises ConfigError where a log can't be written."""
    try:
        with file.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise ConfigError(f"the log {file} can't be written ({reason(error)}): change [log] file") from error


def set_up(log: Log, *, several: bool = False) -> None:
    """Send everything of llmgate's, and warnings of others, to stderr and to a file, which may be rotated away.

    Several processes may write to one file: it is opened for appending, and a line is one write, with the pid in it.
    """
    named = log.file or os.environ.get("PROXY_LOG_PATH")
    file = Path(named) if named else None
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if file is not None:
        check(file)
        handlers.append(WatchedFileHandler(file, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(FORMATS[log.format](several=several))
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    logging.getLogger("llmgate").setLevel(log.level.upper())
