"""Lines of the log: which process wrote them is said where there are several."""

from __future__ import annotations

import json
import logging
import os

import pytest

from llmgate.logs import FORMATS


def record() -> logging.LogRecord:
    return logging.LogRecord("llmgate.x", logging.INFO, "", 1, "hello %s", ("world",), None)


@pytest.mark.parametrize("several", [False, True])
def test_text(several: bool) -> None:
    name = f"llmgate.x[{os.getpid()}]" if several else "llmgate.x"
    assert FORMATS["text"](several=several).format(record()).split(" ")[1:] == ["info", name, "hello", "world"]


@pytest.mark.parametrize("several", [False, True])
def test_json(several: bool) -> None:
    line = json.loads(FORMATS["json"](several=several).format(record()))
    assert line.get("pid") == (os.getpid() if several else None)
    assert (line["level"], line["message"]) == ("info", "hello world")
