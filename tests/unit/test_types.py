"""The types are part of the product: users' code passes both checkers in strict mode, and nothing is untyped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import anyamqp

USERS_CODE = Path(__file__).parents[1] / "support" / "users_code.py"
WRONG = """
import anyamqp
from anyamqp import Connection, Delivery, Message

async def handle(delivery: Delivery) -> None:
    print(delivery)

async def use(connection: Connection) -> None:
    async with connection.publisher() as publisher:
        await publisher.publish(b"not a message")
        await publisher.publish(Message(b"x"), timeout="soon")
    async with connection.consumer("q", on_cancel="ignore") as consumer:
        await consumer.process(print)
        await consumer.process(handle, on_error="raise")
    async with connection.channel() as channel:
        await channel.declare_queue("q", queue_type="fast")
        await channel.declare_queue("q", message_tll=5)
        await channel.declare_queue("q", True)
        await channel.declare_exchange("x", exchange_type="topic")
        await channel.set_qos(prefetch_count=5)
        await channel.publish(Message(b"x"), "key")
    await anyamqp.connect("amqp://localhost")
    await connection.channel()
    await connection.publisher()
    await connection.consumer("q")
    await connection.rpc_client()
    async with connection.publisher() as publisher:
        await publisher.publish(Message(b"x"), "key")
        await publisher.submit(Message(b"x"), "key")
        await publisher.publish(Message(b"x", delivery_mode=2))
    async with connection.consumer("q", prefetch_count=10) as consumer:  # ignore
        await consumer.stop("now")
    anyamqp.connect(host="localhost", login="guest")  # ignore
"""
"""Each line that awaits, and each with "ignore" in it, is wrong."""


def run(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # pyright --verifytypes asks the first python on the path where packages are, and has no option to name another.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return subprocess.run(  # noqa: S603 - our own interpreter and our own tools
        [sys.executable, "-m", tool, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=USERS_CODE.parent,
        env=os.environ | {"PATH": path},
    )


def strictly(folder: Path, code: str) -> Path:
    (folder / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict"}))
    file = folder / "users_code.py"
    file.write_text(code)
    return file


def test_users_code_passes_mypy_in_strict_mode() -> None:
    checked = run("mypy", "--strict", "--config-file=", str(USERS_CODE))
    assert checked.returncode == 0, checked.stdout


def test_users_code_passes_pyright_in_strict_mode(tmp_path: Path) -> None:
    strictly(tmp_path, USERS_CODE.read_text())
    checked = run("pyright", "--pythonpath", sys.executable, "--project", str(tmp_path))
    assert checked.returncode == 0, checked.stdout


def test_wrong_use_is_found_by_both(tmp_path: Path) -> None:
    file = strictly(tmp_path, WRONG)
    lines = {number for number, line in enumerate(WRONG.splitlines(), start=1) if "await " in line or "ignore" in line}
    mypy = run("mypy", "--strict", "--config-file=", str(file)).stdout
    assert {int(line.split(":")[1]) for line in mypy.splitlines() if ": error:" in line} == lines
    pyright = run("pyright", "--pythonpath", sys.executable, "--project", str(tmp_path), "--outputjson").stdout
    found = json.loads(pyright)["generalDiagnostics"]
    assert {one["range"]["start"]["line"] + 1 for one in found if one["severity"] == "error"} == lines


def test_every_public_symbol_has_a_known_type() -> None:
    verified = run("pyright", "--verifytypes", anyamqp.__name__, "--ignoreexternal", "--outputjson").stdout
    assert json.loads(verified)["typeCompleteness"]["completenessScore"] == 1
