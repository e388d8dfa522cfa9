"""The test harness: a node behaves as the tests assume."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from broker.conftest import MakeNode
from support import rabbitmq
from support.rabbitmq import BrokerError, MissingBroker, Node


def say_hello(node: Node, timeout: float = 5.0) -> socket.socket:
    """A connection on which the protocol header has been sent."""
    client = socket.create_connection((node.host, node.port), timeout=timeout)
    client.sendall(b"AMQP\x00\x00\x09\x01")
    return client


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_started_node_answers_and_tells_about_itself(shared_node: Node) -> None:
    assert shared_node.running
    assert shared_node.url == f"amqp://guest:guest@127.0.0.1:{shared_node.port}/"
    assert shared_node.name in shared_node.ctl("status")
    assert "Server startup complete" in shared_node.log_text()


def test_connections_are_listed_and_counted(shared_node: Node) -> None:
    with say_hello(shared_node) as client:
        assert client.recv(1) == b"\x01"
        address = f"127.0.0.1:{client.getsockname()[1]} -> 127.0.0.1:{shared_node.port}"
        (mine,) = (c for c in shared_node.connections() if c.name == address)
        assert (mine.state, mine.channels, mine.connection_name) == ("starting", 0, "")
        counts = shared_node.counts()
        assert counts.connections >= 1
        assert counts.channels == 0


def test_the_depth_of_a_missing_queue_is_an_error(shared_node: Node) -> None:
    with pytest.raises(BrokerError, match="no queue 'missing'"):
        shared_node.queue_depth("missing")


def test_a_command_that_fails_says_why(shared_node: Node) -> None:
    with pytest.raises(BrokerError, match="exit 64"):
        shared_node.ctl("no_such_command")


def test_the_memory_alarm_goes_on_and_off(shared_node: Node) -> None:
    shared_node.set_memory_alarm()
    try:
        assert "memory" in shared_node.eval("rabbit_alarm:get_alarms()")
    finally:
        shared_node.clear_memory_alarm()
    assert shared_node.eval("rabbit_alarm:get_alarms()") == "[]"


def test_freeze_kill_restart_and_stop(own_node: Node) -> None:
    port = own_node.port

    own_node.freeze()
    with say_hello(own_node, timeout=0.5) as client:
        with pytest.raises(TimeoutError):
            client.recv(1)
        own_node.thaw()
        client.settimeout(10)
        assert client.recv(1) == b"\x01"

        own_node.kill()
        assert not own_node.running
        client.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            while client.recv(4096):
                pass

    for _ in range(100):
        with pytest.raises(ConnectionRefusedError):
            say_hello(own_node)
    with pytest.raises(BrokerError, match="is not running"):
        own_node.ctl("status")

    own_node.start()
    assert own_node.port == port
    with say_hello(own_node) as client:
        assert client.recv(1) == b"\x01"
    with pytest.raises(BrokerError, match="running already"):
        own_node.start()

    own_node.stop()
    assert not own_node.running
    with pytest.raises(ConnectionRefusedError):
        say_hello(own_node)


def test_a_node_that_cannot_start_shows_its_output(make_node: MakeNode) -> None:
    node = make_node(config=["heartbeat = soon"])
    with pytest.raises(BrokerError, match="heartbeat"):
        node.start()
    assert not node.running


def test_nothing_is_left_when_the_test_run_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from support.rabbitmq import Node\n"
        "node = Node(Path(sys.argv[1])); node.start()\n"
        "print(node._broker.pid, *(h.pid for h in node._helpers), flush=True); time.sleep(600)"
    )
    with subprocess.Popen(  # noqa: S603 - this interpreter, a constant program
        [sys.executable, "-c", program, str(tmp_path / "node")],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    ) as run:
        assert run.stdout is not None
        pids = [int(pid) for pid in run.stdout.readline().split()]
        assert len(pids) == 3
        assert all(alive(pid) for pid in pids)
        run.send_signal(signal.SIGKILL)
        run.wait()
    limit = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < limit:
        time.sleep(0.05)
    assert [pid for pid in pids if alive(pid)] == []


def test_a_missing_broker_is_an_error_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitmq, "_PACKAGED", tmp_path)
    monkeypatch.delenv("RABBITMQ_SCRIPTS", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingBroker, match="apt-get install"):
        Node(tmp_path / "node")


def test_the_scripts_come_from_the_folder_that_a_variable_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RABBITMQ_SCRIPTS", str(tmp_path))
    with pytest.raises(MissingBroker, match=f"not found in {tmp_path}, the folder that RABBITMQ_SCRIPTS names"):
        Node(tmp_path / "node")
    for program in ("rabbitmq-server", "rabbitmqctl"):
        (tmp_path / program).touch(mode=0o755)
    assert rabbitmq.find_scripts() == tmp_path
