"""Several workers under their parent: how they start, share, reload, stop and die, as processes."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from signal import SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGSTOP, SIGTERM, Signals
from typing import Any

import httpx
import pytest

from llmgate import line
from llmgate.config import parse, resolve
from llmgate.errors import LlmgateError, StorageError
from llmgate.money import usd
from tests.replay import HANG, Pause, Replay, json_answer, sse, sse_answer, wait_until
from tests.served import (
    DONE,
    INPUT_BOUND,
    INPUT_NANO,
    OUTPUT_NANO,
    PROMPT,
    Person,
    Served,
    answers,
    chat_body,
    chunk_of,
    completion,
    estimate,
    facts,
    main_upstream,
    usage_chunk,
    usage_of,
    words,
)

EXACT = 10 * INPUT_NANO + 5 * OUTPUT_NANO
OK = json_answer(completion("hello", usage=usage_of(10, 5)))
HELLO = sse(chunk_of("hello"))
REST = (*words("you"), sse(usage_chunk(10, 5)), DONE)
WHOLE = b"".join([HELLO, *words("you"), DONE])


class Crew(Served):
    """A daemon with workers."""

    def __init__(self, folder: Path, up: Replay | None = None, *, workers: int = 2, **server: Any) -> None:
        upstreams = {"sandbox": {}} if up is None else {"main": main_upstream(up)}
        super().__init__(folder, {"server": {"workers": workers, **server}, "upstreams": upstreams})
        self.living: list[int] = []

    def start(self) -> None:
        super().start()
        self.living = self.pids()

    def __enter__(self) -> Crew:
        super().__enter__()
        return self

    def pids(self) -> list[int]:
        """The workers that live: each has a file beside the database."""
        ids = [path.name for path in (self.folder / "books.db-workers").iterdir() if not path.name.startswith(".")]
        with self.view() as tx:
            found = tx.execute(f"SELECT id, pid FROM workers WHERE id IN ({','.join('?' * len(ids))})", ids).fetchall()
        return sorted(row["pid"] for row in found if runs(row["pid"]))

    def serving(self, person: Person) -> list[int]:
        """The workers that hold something for somebody, once for each hold."""
        with self.view() as tx:
            found = tx.execute(
                "SELECT pid FROM holds JOIN workers ON workers.id = worker_id JOIN users ON users.id = user_id "
                "WHERE users.name = ? ORDER BY holds.id",
                (person.name,),
            )
            return [row["pid"] for row in found.fetchall()]

    def gone(self) -> None:
        """Wait until no worker is left, and the port is free."""
        wait_until(lambda: not any(runs(pid) for pid in self.living), 30)
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        socket.create_server((host, int(port))).close()

    def __exit__(self, *args: Any) -> None:
        super().__exit__(*args)
        wait_until(lambda: not any(runs(pid) for pid in self.living), 30)


def runs(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def refuses(url: str) -> bool:
    host, _, port = url.removeprefix("http://").rpartition(":")
    try:
        socket.create_connection((host, int(port))).close()
    except ConnectionRefusedError:
        return True
    return False


def each_alone(crew: Crew, ask: Any) -> Iterator[Any]:
    """Have each worker answer, by letting all the others sleep; on new connections."""
    for pid in crew.living:
        others = [other for other in crew.living if other != pid]
        for other in others:
            os.kill(other, SIGSTOP)
        try:
            yield ask()
        finally:
            for other in others:
                os.kill(other, SIGCONT)


# -- starting


def test_all_answer_on_one_port(tmp_path: Path) -> None:
    with Crew(tmp_path, workers=3) as crew:
        assert len(crew.living) == 3
        assert crew.log().count("listening on") == 1
        found = each_alone(crew, lambda: httpx.get(crew.url + "/health", trust_env=False, timeout=10).status_code)
        assert list(found) == [200, 200, 200]


def test_the_command_line_has_the_last_word(tmp_path: Path) -> None:
    with Crew(tmp_path, workers=1) as crew:
        assert crew.process is not None
        assert crew.living == [crew.process.pid]  # one worker has no parent
        crew.stop()
        crew.process = crew.spawn("--bind", "127.0.0.1:0", "--workers", "2")
        wait_until(lambda: crew.log().count("listening on") == 2, 30)
        crew.living = crew.pids()
        assert len(crew.living) == 2


@pytest.mark.parametrize("count", ["0", "-1", "65", "many", "1.5", ""])
def test_a_number_of_workers_that_is_none(tmp_path: Path, count: str) -> None:
    with Served(tmp_path, {"upstreams": {"sandbox": {}}}, start=False) as served:
        served.process = served.spawn("--workers", count)
        assert served.wait() == 2
        assert served.log() == f"llmgate: --workers must be a whole number from 1 to 64, not {count!r}\n"


@pytest.mark.parametrize("count", [0, 65, True, "2"])
def test_a_number_of_workers_in_the_config_that_is_none(tmp_path: Path, count: Any) -> None:
    config = {"server": {"workers": count}, "upstreams": {"sandbox": {}}}
    with Served(tmp_path, config, start=False) as served:
        served.process = served.spawn()
        assert served.wait() == 1
        assert "server.workers must be a whole number from 1 to 64, not" in served.log()


def refused(crew: Crew, *args: str) -> tuple[int, str]:
    """The exit code and the one line of a start that fails."""
    crew.process = crew.spawn("--bind", "127.0.0.1:0", *args)
    code = crew.wait()
    (told,) = [one for one in crew.log().splitlines() if one.startswith("llmgate: ")]
    return code, told


def test_an_address_that_is_taken(tmp_path: Path) -> None:
    crew = Crew(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        code, told = refused(crew, "--bind", bind)
    assert code == 1
    assert told.startswith(f"llmgate: can't listen on {bind}: ")
    assert crew.log().count("\n") == 1


def test_a_log_that_can_not_be_written(tmp_path: Path) -> None:
    crew = Crew(tmp_path)
    crew.write_config({"server": {"workers": 2}, "log": {"file": "missing/x.log"}, "upstreams": {"sandbox": {}}})
    code, told = refused(crew)
    assert (code, "[log] file" in told) == (1, True)


def test_workers_that_can_not_begin_end_the_whole(tmp_path: Path) -> None:
    """With the error of the first, told once, and its exit code."""
    crew = Crew(tmp_path, workers=3)
    (tmp_path / "books.db-workers").write_text("where the folder should be")
    code, told = refused(crew)
    assert (code, "books.db-workers" in told) == (1, True)
    assert "listening" not in crew.log()


# -- sharing


def test_connections_spread(tmp_path: Path) -> None:
    """Kept alive, and opened one after the other. (Of those that come within the same millisecond, one worker may take
    nearly all: whoever wakes first accepts what waits.)
    """
    with Replay() as up, Crew(tmp_path, up) as crew, ExitStack() as stack:
        alice = crew.person()
        up.handler = answers(sse_answer(HELLO, HANG))

        def opened() -> httpx.Response:
            client = stack.enter_context(httpx.Client(timeout=30, trust_env=False))
            body = chat_body(stream=True)
            stream = client.stream("POST", f"{crew.url}/v1/chat/completions", json=body, headers=crew.headers(alice))
            return stack.enter_context(stream)

        assert {response.status_code for response in [opened() for _ in range(40)]} == {200}
        shares = Counter(crew.serving(alice))
        assert sorted(shares) == crew.living, shares
        stack.close()
        crew.settled(alice, 40)


def test_workers_do_not_spend_the_same_money(tmp_path: Path) -> None:
    served_most = 7
    hold = INPUT_BOUND * INPUT_NANO + 256 * OUTPUT_NANO
    with Replay() as up, Crew(tmp_path, up) as crew, ThreadPoolExecutor(40) as pool:
        alice = crew.person(credits=usd(served_most * hold))
        up.handler = answers((Pause(0.2), *json_answer(completion(usage=usage_of(INPUT_BOUND, 256)))))

        def ask(_: int) -> int:
            with httpx.Client(timeout=30, trust_env=False) as client:
                body = chat_body(max_tokens=256)
                return client.post(
                    f"{crew.url}/v1/chat/completions", json=body, headers=crew.headers(alice)
                ).status_code

        statuses = Counter(pool.map(ask, range(200)))
        assert set(statuses) <= {200, 402, 429}
        assert statuses[200] == served_most == len(up.requests)
        crew.settled(alice, served_most)
        assert crew.balance(alice.name) == 0


def test_lines_of_the_log_stay_whole(tmp_path: Path) -> None:
    with Replay() as up, Crew(tmp_path, up) as crew, ThreadPoolExecutor(16) as pool:
        config = {"server": {"workers": 2}, "upstreams": {"main": main_upstream(up)}}
        crew.stop()
        crew.write_config(config | {"log": {"format": "json", "file": "own.log"}})
        crew.start()
        alice = crew.person()
        up.handler = answers(OK)
        assert {answer.status_code for answer in pool.map(lambda _: crew.chat(alice), range(300))} == {200}
        crew.settled(alice, 300)
        own = (tmp_path / "own.log").read_text().splitlines()
        assert sum("status" in json.loads(one) for one in own) == 300
        assert all(isinstance(json.loads(one)["pid"], int) for one in own), "each says which process wrote it"
        assert set(own) <= set(crew.log().splitlines())


# -- stopping


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_all_stop_when_the_parent_is_told_to(tmp_path: Path, number: Signals) -> None:
    with Replay() as up, Crew(tmp_path, up, shutdown_grace=20) as crew:
        alice = crew.person(credits="1")
        up.handler = answers(sse_answer(HELLO, Pause(1), *REST))
        with crew.streaming(alice) as stream:
            pieces = stream.iter_raw()
            got = next(pieces)
            crew.signal(number)
            crew.logged("stopping: 1 requests in flight")
            wait_until(lambda: refuses(crew.url))
            got += b"".join(pieces)
        assert got == WHOLE
        assert crew.wait() == 0
        crew.gone()
        assert facts(crew.settled(alice, 1)[0]) == ("ok", "upstream", 200, EXACT)
        assert list((tmp_path / "books.db-workers").iterdir()) == []


def test_a_signal_to_all_at_once_is_said_once(tmp_path: Path) -> None:
    """As a terminal sends it, or a service manager: a stream is still let end. A second one to the parent hurries."""
    with Replay() as up, Crew(tmp_path, up, shutdown_grace=300) as crew:
        alice = crew.person(credits="1")
        up.handler = answers(sse_answer(HELLO, Pause(1), *REST), sse_answer(HELLO, HANG))
        with crew.streaming(alice) as stream, crew.streaming(alice) as other:
            pieces, others = stream.iter_raw(), other.iter_raw()
            got, got_by_other = next(pieces), next(others)
            for number in (SIGINT, SIGTERM):
                for pid in crew.living:
                    os.kill(pid, number)
            crew.signal(SIGTERM)
            got += b"".join(pieces)
            assert got == WHOLE
            wait_until(lambda: refuses(crew.url))  # so the parent has heard the first, and two aren't taken for one
            crew.signal(SIGTERM)
            got_by_other += b"".join(others)
            assert b"upstream_unavailable" in got_by_other
        assert crew.wait() == 0
        assert [row["status"] for row in crew.settled(alice, 2)] == ["ok", "interrupted"]


def test_workers_end_when_only_the_parent_is_killed(tmp_path: Path) -> None:
    """Well: the port is free at once, and a stream is let end."""
    with Replay() as up, Crew(tmp_path, up, workers=3, shutdown_grace=20) as crew:
        alice = crew.person(credits="1")
        up.handler = answers(sse_answer(HELLO, Pause(1.5), *REST))
        with crew.streaming(alice) as stream:
            pieces = stream.iter_raw()
            got = next(pieces)
            crew.kill()
            crew.logged("the parent of the workers is gone: stopping", 3)
            crew.start()  # beside the one that is still busy
            got += b"".join(pieces)
        assert got == WHOLE
        assert facts(crew.settled(alice, 1)[0]) == ("ok", "upstream", 200, EXACT)


def test_idle_workers_are_gone_as_soon_as_the_parent_is_killed(tmp_path: Path) -> None:
    with Crew(tmp_path) as crew:
        crew.kill()
        crew.gone()
        assert list((tmp_path / "books.db-workers").iterdir()) == []


def test_workers_that_have_not_begun_end_when_the_parent_is_killed(tmp_path: Path) -> None:
    with Crew(tmp_path) as crew:
        crew.stop()
        crew.process = crew.spawn("--bind", "127.0.0.1:0")
        time.sleep(0.4)  # whatever they have reached by then
        children = Path(f"/proc/{crew.process.pid}/task/{crew.process.pid}/children").read_text().split()
        crew.kill()
        wait_until(lambda: not any(runs(int(pid)) for pid in children))


# -- dying


def test_a_worker_that_is_killed_is_booked_and_replaced(tmp_path: Path) -> None:
    """At once; the streams of the others go on, and the port answers all the time."""
    with Replay() as up, Crew(tmp_path, up) as crew, ExitStack() as stack:
        alice, bob = crew.person(credits="1"), crew.person(credits="1")
        up.handler = answers(sse_answer(HELLO, Pause(2.5), *REST))
        of: dict[int, tuple[Person, Any]] = {}
        for person in (alice, bob):
            for pid in crew.living:
                if pid not in of:
                    others = [other for other in crew.living if other != pid]
                    for other in others:
                        os.kill(other, SIGSTOP)
                    client = stack.enter_context(httpx.Client(timeout=30, trust_env=False))
                    url = f"{crew.url}/v1/chat/completions"
                    body, headers = chat_body(stream=True), crew.headers(person)
                    pieces = stack.enter_context(client.stream("POST", url, json=body, headers=headers)).iter_raw()
                    assert next(pieces) == HELLO
                    for other in others:
                        os.kill(other, SIGCONT)
                    of[pid] = (person, pieces)
                    break
        (killed, (victim, cut)), (spared, (survivor, whole)) = of.items()
        assert (crew.serving(victim), crew.serving(survivor)) == ([killed], [spared])
        os.kill(killed, SIGKILL)
        crew.logged("a worker ended (killed by SIGKILL): another is started")
        with pytest.raises(httpx.TransportError):
            b"".join(cut)
        (row,) = crew.settled(victim, 1)
        assert (row["status"], row["http_status"], row["charge_nano"]) == ("interrupted", None, estimate(0))
        assert "booked as interrupted, because their worker died: 1 request, " in crew.log()
        assert httpx.get(crew.url + "/health", trust_env=False, timeout=10).status_code == 200
        assert HELLO + b"".join(whole) == WHOLE
        assert facts(crew.settled(survivor, 1)[0]) == ("ok", "upstream", 200, EXACT)
        wait_until(lambda: len(crew.pids()) == 2 and killed not in crew.pids(), 30)
        crew.living = crew.pids()
        found = each_alone(crew, lambda: httpx.get(crew.url + "/ready", trust_env=False, timeout=10).status_code)
        assert list(found) == [200, 200]


def test_a_worker_that_is_told_to_stop_is_replaced(tmp_path: Path) -> None:
    with Crew(tmp_path) as crew:
        os.kill(crew.living[0], SIGTERM)
        crew.logged("a worker ended (exit code 0): another is started")
        wait_until(lambda: len(crew.pids()) == 2 and crew.living[0] not in crew.pids(), 30)
        crew.living = crew.pids()


def test_a_worker_that_can_not_be_replaced_is_tried_again(tmp_path: Path) -> None:
    """Ever more seldom; the others serve on."""
    with Crew(tmp_path) as crew:
        folder, aside = tmp_path / "books.db-workers", tmp_path / "aside"
        folder.rename(aside)
        folder.write_text("where the folder should be")
        os.kill(crew.living[0], SIGKILL)
        wait_until(lambda: crew.log().count("a worker could not begin: ") >= 2, 30)
        assert crew.client.get(crew.url + "/ready").status_code == 200
        folder.unlink()
        aside.rename(folder)
        wait_until(lambda: len(crew.pids()) == 2, 30)
        crew.living = crew.pids()
        times = [one[:23] for one in crew.log().splitlines() if "a worker could not begin" in one]
        assert len(times) < 9


def test_a_worker_that_dies_while_all_stop(tmp_path: Path) -> None:
    """What it held is booked before the parent ends, and the exit code says that not all went well."""
    with Replay() as up, Crew(tmp_path, up, shutdown_grace=300) as crew:
        alice = crew.person(credits="1")
        up.handler = answers(sse_answer(HELLO, HANG))
        with crew.streaming(alice) as stream:
            pieces = stream.iter_raw()
            next(pieces)
            (busy,) = crew.serving(alice)
            crew.signal(SIGTERM)
            crew.logged("stopping: ", 2)
            os.kill(busy, SIGKILL)
            assert crew.wait() == 1
        assert "llmgate: a worker died while it was to stop (killed by SIGKILL)" in crew.log()
        (row,) = crew.settled(alice, 1)
        assert (row["status"], row["http_status"], row["charge_nano"]) == ("interrupted", None, estimate(0))


# -- reloading


def charges(crew: Crew, person: Person) -> list[str]:
    """What each worker charges for one request."""

    def ask() -> str:
        headers, url = crew.headers(person), f"{crew.url}/v1/chat/completions"
        return httpx.post(url, json=chat_body(), headers=headers, trust_env=False, timeout=30).headers[
            "x-llmgate-charge-usd"
        ]

    return list(each_alone(crew, ask))


def test_a_reload_reaches_all_or_none(tmp_path: Path) -> None:
    with Replay() as up, Crew(tmp_path, up) as crew:
        alice = crew.person()
        up.handler = answers(OK)
        assert charges(crew, alice) == ["0.00002"] * 2
        dearer = main_upstream(up, price={"input": 10, "output": 20})
        crew.write_config({"upstreams": {"main": dearer}})
        crew.signal(SIGHUP)
        crew.logged("the config was reloaded: 1 upstream", 2)
        assert charges(crew, alice) == ["0.0002"] * 2
        crew.config.write_text("this is no TOML")
        crew.signal(SIGHUP)
        crew.logged("the config was not reloaded, the old one stays")
        assert charges(crew, alice) == ["0.0002"] * 2
        assert crew.log().count("the config was not reloaded") == 1
        # Who comes later serves by what the others serve by, whatever the file says.
        os.kill(crew.living[0], SIGKILL)
        wait_until(lambda: len(crew.pids()) == 2 and crew.living[0] not in crew.pids(), 30)
        crew.living = crew.pids()
        assert charges(crew, alice) == ["0.0002"] * 2
        crew.settled(alice, 8)


def test_a_worker_that_sleeps_does_not_keep_the_parent_from_anything(tmp_path: Path) -> None:
    with Crew(tmp_path) as crew:
        asleep, awake = crew.living
        os.kill(asleep, SIGSTOP)
        for count in range(1, 21):
            crew.signal(SIGHUP)
            crew.logged("the config was reloaded", count)
        os.kill(asleep, SIGCONT)
        crew.logged("the config was reloaded", 40)
        assert runs(awake)


# -- what they say to each other


def test_messages_come_through_whole() -> None:
    ours, theirs = socket.socketpair()
    resolved = resolve(
        parse('[upstreams.openrouter]\napi_key = "x"\n[upstreams.sandbox]\n[plans.a]\nlimits = ["5 requests/day"]'), {}
    )
    error = StorageError("locked", code="storage_busy")
    with ours, theirs:
        for message in (resolved, line.Order.STOP, error):
            theirs.sendall(line.pack(message))
        assert line.receive(ours) == resolved
        assert line.receive(ours) is line.Order.STOP
        received = line.receive(ours)
        assert isinstance(received, LlmgateError)
        assert (received.message, received.code, received.exit_code) == ("locked", "storage_busy", 4)
        theirs.sendall(line.pack(resolved)[:-1])
        theirs.close()
        with pytest.raises(EOFError):
            line.receive(ours)


def test_a_line_shows_no_secret(tmp_path: Path) -> None:
    """Neither in the list of processes nor in their environment."""
    with Replay() as up, Crew(tmp_path, up) as crew:
        assert crew.process is not None
        for pid in (crew.process.pid, *crew.living):
            for name in ("cmdline", "environ"):
                text = Path(f"/proc/{pid}/{name}").read_bytes().decode()
                assert not re.search("|".join(map(re.escape, (*crew.secrets, PROMPT))), text)
