"""A real RabbitMQ node for tests, private to the test run.

A :class:`Node` lives in one folder: its home and Erlang cookie, its database, its log, its configuration. It has ports
and an epmd of its own, so it neither sees nor disturbs a node that the machine runs anyway. It runs as root and as an
ordinary user alike, because it starts the server script below the distribution's wrapper, which insists on an account.

The environment variable ``RABBITMQ_SCRIPTS`` names the folder of another RabbitMQ's ``rabbitmq-server`` and
``rabbitmqctl``; ``scripts/ensure-rabbitmq4`` fetches such versions. Without it the node is the machine's own RabbitMQ.

Everything here blocks and uses processes and sockets only, so that it serves asyncio and trio alike: an asynchronous
test calls it through ``anyio.to_thread.run_sync``. One thread at a time may use a node.

The processes of a node end with the test run, however that ends: :meth:`Node.close` is registered with :mod:`atexit`,
and a small shell waits on a pipe for the death of a test run that is killed outright.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from anyamqp.testing.embedded.versions import RULES, Rules
from support.versions import Facts, facts_of, version_of

_PACKAGED: Final = Path("/usr/lib/rabbitmq/bin")
_PACKAGED_ERLANG: Final = Path("/usr/lib/erlang/bin")
_SCRIPTS_VARIABLE: Final = "RABBITMQ_SCRIPTS"
_LOCALHOST: Final = "127.0.0.1"
_STARTED: Final = "Server startup complete"
_PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
_METHOD_FRAME: Final = b"\x01"

_START_LIMIT: Final = 60.0
_STOP_LIMIT: Final = 30.0
_CTL_LIMIT: Final = 60.0
_TAIL: Final = 6000

_DEFAULTS: Final = {
    "loopback_users": "none",
    "heartbeat": "60",
    "disk_free_limit.absolute": "50MB",
    "log.file.level": "info",
}

# Waits until the pipe's other end is gone, then ends the processes that it was given.
_WATCHDOG: Final = 'read -r _; kill -KILL "$@" 2>/dev/null'


class BrokerError(RuntimeError):
    """The node, or a command to it, did not do what it was asked to."""


class MissingBroker(BrokerError):
    """RabbitMQ is not installed here. The tests that need it fail then: to leave them out would prove nothing."""

    def __init__(self, what: str, *, where: str = "on this machine") -> None:
        super().__init__(
            f"the broker tests need RabbitMQ's server, and {what} was not found {where}. "
            "Install it with scripts/ensure-rabbitmq, or on Debian and Ubuntu with "
            "'apt-get install --no-install-recommends rabbitmq-server'. It need not be running."
        )


@dataclass(frozen=True, slots=True)
class BrokerConnection:
    """A connection as the broker sees it.

    Attributes:
        name: the broker's own name for it, ``peer:port -> host:port``.
        channels: how many channels are open on it.
        state: ``starting`` during the handshake, then ``running``, ``blocked``, ``blocking``, ``flow`` and so on.
        connection_name: the client property ``connection_name``; empty if the client gave none.
        heartbeat: the negotiated interval in seconds; 0 is off.
        client_properties: what the client said of itself, tables within as mappings; empty during the handshake.
    """

    name: str
    channels: int
    state: str
    connection_name: str
    heartbeat: int
    client_properties: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many connections and channels are open, from one and the same moment."""

    connections: int
    channels: int


@dataclass(frozen=True, slots=True)
class Certificates:
    """What a node needs for TLS, as PEM files.

    Attributes:
        ca: the CA whose clients it trusts; it asks every client for a certificate, and ends without one.
        certificate: its own.
        key: the key of that.
    """

    ca: Path
    certificate: Path
    key: Path


def find_scripts() -> Path:
    """The folder that holds ``rabbitmq-server`` and ``rabbitmqctl`` themselves, not the distribution's wrappers.

    Raises:
        MissingBroker: there is none, or none where ``RABBITMQ_SCRIPTS`` says.
    """
    if named := os.environ.get(_SCRIPTS_VARIABLE):
        folders, where = [Path(named).absolute()], f"in {named}, the folder that {_SCRIPTS_VARIABLE} names"
    else:
        folders, where = [_PACKAGED], "on this machine"
        if on_path := shutil.which("rabbitmq-server"):
            folders.append(Path(on_path).resolve().parent)
    for folder in folders:
        if all(os.access(folder / script, os.X_OK) for script in ("rabbitmq-server", "rabbitmqctl")):
            return folder
    raise MissingBroker("rabbitmq-server", where=where)


def _find_in_erlang(program: str, scripts: Path) -> Path:
    # One beside the scripts belongs to the same Erlang.
    for path in (str(scripts), None, str(_PACKAGED_ERLANG)):
        if found := shutil.which(program, path=path):
            return Path(found)
    raise MissingBroker(f"Erlang's {program}")


def _reserve_port() -> socket.socket:
    """A socket that is bound to a free port and never listens.

    It keeps the port for its owner while the node is down: a connect is refused, no other process is given the port,
    and a client that keeps trying cannot be connected to itself. The node may bind it too: both sides reuse addresses.
    """
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind((_LOCALHOST, 0))
    return reserved


def _configuration(config: Mapping[str, str] | Sequence[str]) -> str:
    settings = dict(_DEFAULTS)
    if isinstance(config, Mapping):
        settings.update(config)
    else:
        for line in config:
            key, _, value = line.partition("=")
            settings[key.strip()] = value.strip()
    return "".join(f"{key} = {value}\n" for key, value in settings.items())


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process and to all that it started in its group; returns when it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


class Node:
    """One RabbitMQ node in one folder.

    Parameters:
        folder: where everything of the node is kept; made if it is missing.
        config: settings for ``rabbitmq.conf``, as a mapping or as lines ``key = value``. They override the defaults:
            guest may log in, heartbeat 60 s, disk limit 50 MB.
        advanced: the terms of ``advanced.config``, such as ``{rabbit, [{channel_tick_interval, 1000}]}``.
        plugins: the plugins to enable; those that they need come along.
        name: the part of the node's name before ``@localhost``.
        certificates: what the node shows on its TLS port, ``tls_port``; None if it is not to listen there.
        neighbour: a node of the same cluster, which is started first and closed last: the two share its cookie and its
            epmd.

    Raises:
        MissingBroker: RabbitMQ is not installed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        config: Mapping[str, str] | Sequence[str] = (),
        advanced: str = "",
        plugins: Sequence[str] = (),
        name: str = "test",
        certificates: Certificates | None = None,
        neighbour: Node | None = None,
    ) -> None:
        self._scripts = find_scripts()
        self._epmd = _find_in_erlang("epmd", self._scripts)
        self._erl_call = _find_in_erlang("erl_call", self._scripts)
        self._folder = folder.resolve()
        self._reserved = [_reserve_port() for _ in range(4)]
        self.port, self.tls_port, self._dist_port, self._epmd_port = (int(s.getsockname()[1]) for s in self._reserved)
        self.name = f"{name}@localhost"
        self._has_epmd = neighbour is None
        cookie = secrets.token_hex(16)
        if neighbour is not None:
            self._epmd_port, cookie = neighbour.meeting_place
        self._broker: subprocess.Popen[bytes] | None = None
        self._helpers: list[subprocess.Popen[bytes]] = []
        self._frozen = False
        self._starts_logged = 0
        """Starts that the log told of before the present one."""
        self._write_files(_configuration(config) + self._tls_listener(certificates), advanced, plugins, cookie)

    @property
    def meeting_place(self) -> tuple[int, str]:
        """The port of the epmd, and the Erlang cookie: nodes that share both may form a cluster."""
        return self._epmd_port, (self._folder / "home" / ".erlang.cookie").read_text()

    @property
    def host(self) -> str:
        """The only address that the node listens on."""
        return _LOCALHOST

    @property
    def url(self) -> str:
        """The node's URL, with the credentials of guest and the default virtual host."""
        return f"amqp://guest:guest@{_LOCALHOST}:{self.port}/"

    @property
    def facts(self) -> Facts:
        """How this version of RabbitMQ behaves where versions differ. The node must be running when first asked."""
        return facts_of(self.version)

    @property
    def rules(self) -> Rules:
        """How the embedded broker behaves as this version. The node must be running when first asked."""
        return RULES[version_of(self.version)]

    @cached_property
    def version(self) -> tuple[int, int]:
        """Major and minor. The node must be running when first asked."""
        said = self.ctl("version")
        found = re.fullmatch(r"(\d+)\.(\d+)\..*", said.strip())
        if found is None:
            raise BrokerError(f"rabbitmqctl version: {said!r} is no version")
        return int(found[1]), int(found[2])

    @property
    def running(self) -> bool:
        """Whether the broker's process exists; a frozen one does."""
        return self._broker is not None and self._broker.poll() is None

    # Life and death

    def start(self) -> None:
        """Start the node, or start it again on the same port with its durable data; return when it has started.

        It speaks AMQP a little earlier, and RabbitMQ 4.0 loses what is published to a reply-to address meanwhile.

        Raises:
            BrokerError: it runs already, it ended, or it was not ready within 60 s. The text ends with its output.
        """
        if self.running:
            raise BrokerError(f"{self.name} is running already")
        if not self._reserved:
            raise BrokerError(f"{self.name} is closed")
        self._forget()
        self._starts_logged = self.log_text().count(_STARTED)
        atexit.register(self.close)
        with (self._folder / "out").open("wb") as output:
            if self._has_epmd:
                command = [str(self._epmd), "-address", _LOCALHOST, "-port", str(self._epmd_port)]
                self._helpers.append(self._spawn(command, subprocess.DEVNULL))
            self._broker = self._spawn([str(self._scripts / "rabbitmq-server")], output.fileno())
        self._helpers.append(self._watch(*(helper.pid for helper in self._helpers), self._broker.pid))
        self._frozen = False
        try:
            self._await_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End the node in order (SIGTERM); it closes its connections with 320. Killed if it takes longer than 30 s."""
        if self._broker is None:
            return
        self.thaw()
        with contextlib.suppress(ProcessLookupError):
            self._broker.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._broker.wait(_STOP_LIMIT)
        self._forget()

    def kill(self) -> None:
        """End the node at once (SIGKILL); the kernel resets or ends its connections. Returns when it is gone."""
        self._forget()

    def restart(self) -> None:
        """:meth:`stop`, then :meth:`start`: same port, same folder, durable data kept."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Stop the broker's process (SIGSTOP): the kernel goes on to accept connections and bytes, nobody answers."""
        broker = self._alive()
        broker.send_signal(signal.SIGSTOP)
        # The signal takes a moment to reach a process that is running, which may still answer meanwhile.
        os.waitid(os.P_PID, broker.pid, os.WSTOPPED | os.WNOWAIT)
        self._frozen = True

    def thaw(self) -> None:
        """Let a frozen broker go on (SIGCONT)."""
        if self._broker is not None and self._frozen:
            self._broker.send_signal(signal.SIGCONT)
            self._frozen = False

    def close(self) -> None:
        """End everything that belongs to the node and give its ports back. May be called twice. The folder stays."""
        self._forget()
        while self._reserved:
            self._reserved.pop().close()
        atexit.unregister(self.close)

    # What the broker sees and does

    def ctl(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` on the node and return its output. Costs a second of CPU.

        Raises:
            BrokerError: the command failed, or took longer than 60 s, as it does on a frozen node.
        """
        return self._ask([str(self._scripts / "rabbitmqctl"), "-q", "-n", self.name, *arguments], "")

    def eval(self, expression: str) -> str:
        """Evaluate an Erlang expression (without its full stop) in the node and return the printed result.

        Costs a hundredth of :meth:`ctl`.

        Raises:
            BrokerError: the expression is wrong, or took longer than 60 s.
        """
        _, cookie = self.meeting_place
        said = self._ask([str(self._erl_call), "-name", self.name, "-c", cookie, "-e"], f"{expression}.\n").strip()
        if not said.startswith("{ok, "):
            raise BrokerError(f"{expression}: {said}")
        return said[len("{ok, ") : -len("}")]

    def _ask(self, command: Sequence[str], told: str) -> str:
        # On a node that is down, the tool would start an epmd of its own, which nobody would end.
        self._alive()
        shown = " ".join([Path(command[0]).name, *(one for one in command[1:] if one != self.meeting_place[1])])
        process = subprocess.Popen(  # noqa: S603 - the program is RabbitMQ's own, the arguments are the test's
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment(),
            start_new_session=True,
        )
        with process:
            try:
                output, errors = process.communicate(told.encode(), timeout=_CTL_LIMIT)
            except BaseException as error:
                _end(process)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise BrokerError(f"{shown}: no answer within {_CTL_LIMIT:g} s") from None
                raise
        if process.returncode != 0:
            said = (errors + output).decode(errors="replace").strip()
            raise BrokerError(f"{shown}: exit {process.returncode}: {said}")
        return output.decode(errors="replace")

    def connections(self) -> list[BrokerConnection]:
        """Every connection, those in their handshake too."""
        columns = ("name", "channels", "state", "timeout", "client_properties")
        return [_connection(row) for row in self._table("list_connections", *columns)]

    def counts(self) -> Counts:
        """Connections (those in their handshake too) and channels, in one call."""
        pair = self.eval("{length(rabbit_networking:connections()), length(rabbit_channel:list())}")
        connections, channels = pair.strip("{}").split(",")
        return Counts(int(connections), int(channels))

    def connection_count(self) -> int:
        """How many connections are open."""
        return self.counts().connections

    def channel_count(self) -> int:
        """How many channels are open, over all connections."""
        return self.counts().channels

    def close_all_connections(self, reason: str = "closed by the test") -> None:
        """Have the broker close every connection, with 320 and this reason in the reply text."""
        self.ctl("close_all_connections", reason)

    def queue_depth(self, name: str) -> int:
        """How many messages the queue holds, ready and unacknowledged together.

        Raises:
            BrokerError: there is no such queue in the default virtual host.
        """
        for row in self._table("list_queues", "name", "messages"):
            if row["name"] == name:
                return int(row["messages"])
        raise BrokerError(f"{self.name} has no queue {name!r}")

    def set_memory_alarm(self) -> None:
        """Raise the memory alarm: from the next publish on, a connection is blocked.

        Returns when the alarm was told to the connections: they learn of it from another process than the one that
        answers the command.
        """
        deadline = time.monotonic() + 10
        set_and_ask = "vm_memory_monitor:set_vm_memory_high_watermark(1.0e-7), rabbit_alarm:get_alarms()"
        while self.eval(set_and_ask) == "[]":
            if time.monotonic() > deadline:
                raise BrokerError("the memory alarm was not raised within 10 s")

    def clear_memory_alarm(self) -> None:
        """Clear what :meth:`set_memory_alarm` raised."""
        self.eval("vm_memory_monitor:set_vm_memory_high_watermark(0.4)")

    def log_text(self) -> str:
        """What the node has written to its log files so far, over all its starts."""
        files = sorted((self._folder / "log").glob("*.log"))
        return "".join(file.read_text(errors="replace") for file in files)

    # Within

    def _tls_listener(self, certificates: Certificates | None) -> str:
        if certificates is None:
            return ""
        return (
            f"listeners.ssl.default = {_LOCALHOST}:{self.tls_port}\n"
            f"ssl_options.cacertfile = {certificates.ca}\n"
            f"ssl_options.certfile = {certificates.certificate}\n"
            f"ssl_options.keyfile = {certificates.key}\n"
            "ssl_options.verify = verify_peer\n"
            "ssl_options.fail_if_no_peer_cert = true\n"
        )

    def _write_files(self, configuration: str, advanced: str, plugins: Sequence[str], secret: str) -> None:
        home = self._folder / "home"
        for folder in (home, self._folder / "mnesia", self._folder / "log"):
            folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "rabbitmq.conf").write_text(configuration)
        (self._folder / "enabled_plugins").write_text(f"[{','.join(plugins)}].\n")
        (self._folder / "advanced.config").write_text(f"[{advanced}].\n")
        cookie = home / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(secret)
            cookie.chmod(0o400)

    def _environment(self) -> dict[str, str]:
        folder = self._folder
        loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RABBITMQ_", "ERL_", "ERLANG_"))}
        return inherited | {
            "HOME": str(folder / "home"),
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": _LOCALHOST,
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": _LOCALHOST,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"+sbwt none {loopback}",
            "RABBITMQ_CTL_ERL_ARGS": loopback,
            # The script then replaces itself with the Erlang VM, so that a signal to the process hits the broker.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_START_ARGS": "-noinput",
        }

    def _spawn(self, command: Sequence[str], output: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - RabbitMQ's and Erlang's own programs
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=self._environment(),
            cwd=self._folder,
            start_new_session=True,
        )

    def _watch(self, *pids: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - a constant script and process numbers
            ["/bin/sh", "-c", _WATCHDOG, "watchdog", *map(str, pids)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _forget(self) -> None:
        # The watchdog, started last, goes first: it must not see its pipe close while a number it holds may be reused.
        while self._helpers:
            _end(self._helpers.pop())
        if self._broker is not None:
            _end(self._broker)
            self._broker = None
        self._frozen = False

    def _alive(self) -> subprocess.Popen[bytes]:
        if self._broker is None or self._broker.poll() is not None:
            raise BrokerError(f"{self.name} is not running{self._tail()}")
        return self._broker

    def _await_ready(self) -> None:
        limit = time.monotonic() + _START_LIMIT
        while not (self._answers() and self.log_text().count(_STARTED) > self._starts_logged):
            self._alive()
            if time.monotonic() > limit:
                raise BrokerError(f"{self.name} was not ready within {_START_LIMIT:g} s{self._tail()}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with socket.create_connection((_LOCALHOST, self.port), timeout=2) as probe:
                probe.sendall(_PROTOCOL_HEADER)
                return probe.recv(1) == _METHOD_FRAME
        except OSError:
            return False

    def _tail(self) -> str:
        output = self._folder / "out"
        said = output.read_text(errors="replace") if output.exists() else ""
        return f"; its output and log end with:\n{said[-_TAIL:]}\n{self.log_text()[-_TAIL:]}"

    def _table(self, *command: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self.ctl("--formatter", "json", *command))
        return rows


def _connection(row: Mapping[str, Any]) -> BrokerConnection:
    properties = _properties(row["client_properties"])
    return BrokerConnection(
        name=row["name"],
        channels=row["channels"],
        state=row["state"],
        connection_name=str(properties.get("connection_name", "")),
        heartbeat=row["timeout"],
        client_properties=properties,
    )


def _properties(listed: Any) -> dict[str, object]:
    """A table as the tool prints it, a list of [key, type, value]; the word ``none`` stands for no table."""
    rows: list[tuple[str, str, Any]] = [] if listed == "none" else listed
    return {key: _properties(value) if kind == "table" else value for key, kind, value in rows}
