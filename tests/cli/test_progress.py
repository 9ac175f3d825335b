"""Signs of life of what takes long."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from llmgate.cli import progress
from tests.replay import wait_until


def test_what_takes_long_says_so_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out = StringIO()
    monkeypatch.setattr(progress, "_terminal", lambda: Console(file=out, force_terminal=True, width=60))
    monkeypatch.setattr(progress, "PATIENCE_S", 0)
    with progress.working("checking the books"):
        wait_until(lambda: "checking the books …" in out.getvalue())
    assert out.getvalue().endswith("\x1b[2K"), "the line is gone in the end"


def test_what_is_over_at_once_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    out = StringIO()
    monkeypatch.setattr(progress, "_terminal", lambda: Console(file=out, force_terminal=True))
    monkeypatch.setattr(progress, "PATIENCE_S", 3600)
    with pytest.raises(KeyboardInterrupt), progress.working("checking the books"):
        raise KeyboardInterrupt
    assert out.getvalue() == ""


def test_a_pipe_is_told_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.working("checking the books"), progress.progress("pruning", 2) as at:
        at(1)
    assert capsys.readouterr() == ("", "")
