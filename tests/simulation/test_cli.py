"""The command ``anyamqp``, as a user meets it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from anyamqp.cli import main
from anyamqp.testing import Broker
from support.waiting import eventually

SECRET = "s3cr3t"
DIAGRAMS = Path(__file__).parents[2] / "diagrams"


@pytest.mark.parametrize("name", ["connection", "channel", "link"])
@pytest.mark.parametrize(("form", "suffix"), [("mermaid", "mmd"), ("svg", "svg")])
def test_diagram_prints_what_the_files_hold(
    name: str, form: str, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diagram", name, "--format", form]) == 0
    assert capsys.readouterr().out == (DIAGRAMS / f"{name}.{suffix}").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["check", "watch"])
def test_wrong_url_exits_with_2_and_names_the_part(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, f"amqp://user:{SECRET}@host:port"]) == 2
    told = capsys.readouterr().err
    assert "port" in told
    assert SECRET not in told


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_check_without_a_broker_exits_with_1_and_says_why(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"amqp://user:{SECRET}@127.0.0.1:1", "--timeout", "0.2", "--backend", backend]) == 1
    told = capsys.readouterr().err
    assert "127.0.0.1:1" in told
    assert SECRET not in told


async def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return await anyio.run_process([sys.executable, "-m", "anyamqp.cli", *arguments], check=False)


@pytest.mark.anyio
async def test_check_says_what_is_there(anyio_backend_name: str) -> None:
    async with Broker() as broker:
        url = await broker.listen()
        ended = await run("check", url, "--backend", anyio_backend_name)
        assert ended.returncode == 0, ended.stderr
        assert b"anyamqp embedded broker" in ended.stdout
        assert b"heartbeat 60 s" in ended.stdout
        assert broker.unexpected_closes == []


@pytest.mark.anyio
async def test_check_with_a_wrong_password_names_the_refusal(anyio_backend_name: str) -> None:
    async with Broker(password=SECRET) as broker:
        await broker.listen()
        ended = await run("check", f"amqp://guest:wrong@127.0.0.1:{broker.port}", "--backend", anyio_backend_name)
        assert ended.returncode == 1
        assert b"LoginRefused" in ended.stderr
        assert b"wrong" not in ended.stderr


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
