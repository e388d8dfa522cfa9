"""The command ``anyamqp``, as a user meets it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

import anyamqp
from anyamqp import RequestTimeout, Settings
from anyamqp.cli import check, main, watch
from anyamqp.testing import Broker
from anyamqp.testing.embedded.handshake import SERVER_PROPERTIES
from anyamqp.wire import methods
from support.handbroker import HandBroker
from support.waiting import eventually

SECRET = "s3cr3t"
DIAGRAMS = Path(__file__).parents[2] / "diagrams"


@pytest.mark.parametrize("name", ["connection", "channel", "link", "publisher"])
def test_diagram_prints_the_mermaid_file(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagram", name]) == 0
    assert capsys.readouterr().out == (DIAGRAMS / f"{name}.mmd").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["check", "watch"])
def test_wrong_url_exits_with_2_and_names_the_part(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, f"amqp://user:{SECRET}@host:port"]) == 2
    told = capsys.readouterr().err
    assert "port" in told
    assert SECRET not in told


@pytest.mark.parametrize("command", ["check", "watch"])
def test_missing_trio_exits_with_2_and_the_pip_command(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "trio", None)
    assert main([command, "amqp://127.0.0.1:1", "--backend", "trio"]) == 2
    assert capsys.readouterr().err == "anyamqp: --backend trio needs trio: pip install 'anyamqp[trio]'\n"


@pytest.mark.parametrize("command", ["check", "watch"])
def test_help_says_how_to_keep_the_password_out_of_the_process_list(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    told = " ".join(capsys.readouterr().out.split())
    for variable in ("RABBITMQ_URL", "RABBITMQ_HOST", "RABBITMQ_PORT", "RABBITMQ_USER", "RABBITMQ_VHOST"):
        assert variable in told
    assert "RABBITMQ_PASSWORD is the password of a URL that names a user and no password" in told


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_check_without_a_broker_exits_with_1_and_says_why(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"amqp://user:{SECRET}@127.0.0.1:1", "--timeout", "0.2", "--backend", backend]) == 1
    told = capsys.readouterr().err
    assert "127.0.0.1:1" in told
    assert SECRET not in told


@pytest.mark.anyio
async def test_check_says_what_is_there(anyio_backend_name: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with Broker() as broker:
        url = await broker.listen()
        assert await anyio.to_thread.run_sync(main, ["check", url, "--backend", anyio_backend_name]) == 0
        told = capsys.readouterr().out
        assert "anyamqp embedded broker" in told
        assert "heartbeat 60 s" in told
        assert f"127.0.0.1:{broker.port}, virtual host '/'" in told
        assert broker.unexpected_closes == []


@pytest.mark.anyio
async def test_check_with_a_wrong_password_names_the_refusal(
    anyio_backend_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Broker(password=SECRET) as broker:
        await broker.listen()
        url = f"amqp://guest:wrong@127.0.0.1:{broker.port}"
        assert await anyio.to_thread.run_sync(main, ["check", url, "--backend", anyio_backend_name]) == 1
        told = capsys.readouterr().err
        assert f"LoginRefused: user 'guest' at 127.0.0.1:{broker.port}: " in told
        assert "wrong" not in told


@pytest.mark.anyio
async def test_check_takes_the_password_of_a_url_from_the_environment(
    anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RABBITMQ_PASSWORD", SECRET)
    async with Broker(username="me", password=SECRET) as broker:
        await broker.listen()
        url = f"amqp://me@127.0.0.1:{broker.port}"
        assert await anyio.to_thread.run_sync(main, ["check", url, "--backend", anyio_backend_name]) == 0


@pytest.mark.anyio
@pytest.mark.parametrize(("user", "code"), [("me:own@", 0), ("", 1)])
async def test_password_of_the_environment_is_for_a_url_that_lacks_one(
    user: str, code: int, anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password may be for another broker, so a URL without a user does not send it."""
    monkeypatch.setenv("RABBITMQ_PASSWORD", SECRET)
    async with Broker(username="me", password="own") as broker:
        await broker.listen()
        url = f"amqp://{user}127.0.0.1:{broker.port}"
        assert await anyio.to_thread.run_sync(main, ["check", url, "--backend", anyio_backend_name]) == code


@pytest.mark.parametrize("timeout", ["-1", "0", "nan"])
def test_wrong_timeout_exits_with_2(timeout: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "amqp://127.0.0.1:1", "--timeout", timeout]) == 2
    assert capsys.readouterr().err == f"anyamqp: --timeout: {float(timeout)} is not a positive number of seconds\n"


@pytest.mark.anyio
async def test_check_does_not_wait_longer_than_its_timeout_for_the_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    async with anyio.create_task_group() as tasks:
        broker = HandBroker(tasks)
        broker.habits.silent_to.add(methods.Channel.Open)
        monkeypatch.setattr("anyamqp.cli.connect", partial(anyamqp.connect, dial=broker.dial))
        with anyio.fail_after(20), pytest.raises(RequestTimeout, match=r"connected, but no channel opened within 0\.5"):
            await check(Settings(close_timeout=0.1), 0.5)
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.parametrize("command", ["check", "watch", "diagram"])
async def test_output_that_nobody_reads_ends_quietly(command: str, anyio_backend_name: str) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    async with Broker() as broker:
        url = await broker.listen()
        arguments = ["link"] if command == "diagram" else [url, "--backend", anyio_backend_name]
        with os.fdopen(writes, "w") as closed, anyio.fail_after(20):
            ended = await anyio.run_process(
                [sys.executable, "-m", "anyamqp.cli", command, *arguments], check=False, stdout=closed
            )
        assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.anyio
async def test_check_reads_the_environment_without_a_url(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Broker(username="bob", password=SECRET) as broker:
        await broker.listen()
        environment = {"HOST": "127.0.0.1", "PORT": str(broker.port), "USER": "bob", "PASSWORD": SECRET}
        for name, value in environment.items():
            monkeypatch.setenv(f"RABBITMQ_{name}", value)
        monkeypatch.delenv("RABBITMQ_URL", raising=False)
        assert await anyio.to_thread.run_sync(main, ["check"]) == 0
        told = capsys.readouterr()
        assert f"127.0.0.1:{broker.port}" in told.out
        assert SECRET not in told.out + told.err


@pytest.mark.anyio
async def test_watch_goes_on_over_a_loss(capsys: pytest.CaptureFixture[str]) -> None:
    told = ""

    def has_said(text: str) -> bool:
        nonlocal told
        told += capsys.readouterr().out
        return text in told

    async with Broker() as broker, anyio.create_task_group() as tasks:
        tasks.start_soon(watch, Settings.from_urls(await broker.listen()))
        await eventually(lambda: has_said("link 1, 1 dials, 0 reconnects"))
        broker.reset_connections()
        await eventually(lambda: has_said("link 2, 2 dials, 1 reconnects"))
        assert "connection RECONNECTING -> OPEN" in told
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_watch_prints_transitions_until_it_is_interrupted(anyio_backend_name: str) -> None:
    async with Broker() as broker:
        url = await broker.listen()
        command = [sys.executable, "-u", "-m", "anyamqp.cli", "watch", url, "--backend", anyio_backend_name]
        async with await anyio.open_process(command, stderr=subprocess.DEVNULL) as process:
            seen = b""
            with anyio.fail_after(20):
                await eventually(lambda: broker.connection_count == 1)
                assert process.stdout is not None
                while b"connection CONNECTING -> OPEN" not in seen:
                    seen += await process.stdout.receive()
                broker.reset_connections()
                while b"connection RECONNECTING -> OPEN" not in seen:
                    seen += await process.stdout.receive()
                process.send_signal(signal.SIGINT)
                assert await process.wait() == 0
        await eventually(lambda: broker.connection_count == 0)
        assert broker.unexpected_closes == []


# --- texts that a terminal must not see as they are -------------------------------------------------------------------

HOSTILE = "d\u00e9j\u00e0 vu\n\x1b[2Jcleared\u202e\udcff"
"""A text of a broker's with a line feed, a terminal's command, a change of direction and a byte that is not UTF-8."""
SHOWN = rb"vu\n\x1b[2Jcleared\u202e\xff"
"""Its end as it is to be shown."""
ASCII = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
"""An environment in which Python can print nothing but ASCII."""


@pytest.mark.anyio
async def test_check_shows_what_the_broker_says_of_itself_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SERVER_PROPERTIES, "product", HOSTILE)
    async with Broker() as broker:
        command = [sys.executable, "-m", "anyamqp.cli", "check", await broker.listen()]
        ended = await anyio.run_process(command, check=False, env=ASCII)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert SHOWN in ended.stdout
    assert rb"broker     d\xe9j\xe0 vu" in ended.stdout


@pytest.mark.anyio
async def test_watch_shows_why_the_broker_closed_escaped() -> None:
    async with Broker() as broker:
        command = [sys.executable, "-u", "-m", "anyamqp.cli", "watch", await broker.listen()]
        async with await anyio.open_process(command, stderr=subprocess.DEVNULL, env=ASCII) as process:
            assert process.stdout is not None
            seen = b""
            with anyio.fail_after(20):
                while b"connection CONNECTING -> OPEN" not in seen:
                    seen += await process.stdout.receive()
                broker.close_connections(text=HOSTILE)
                while b"connection RECONNECTING -> OPEN" not in seen:
                    seen += await process.stdout.receive()
                process.send_signal(signal.SIGINT)
                await process.wait()
    assert rb"320 d\xe9j\xe0 vu\n\x1b[2Jcleared\u202e" in seen
