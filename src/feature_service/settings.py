"""The settings of the service, read from the environment."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Final

import anyamqp
from feature_service.exchange import BOOKS, TICKERS, TRADES
from feature_service.symbols import LEAST_SYMBOLS

SOURCES: Final = (TRADES, TICKERS, BOOKS)
QUEUE: Final = "features.live"
BACKENDS: Final = ("asyncio", "trio")


LEAST_INTERVAL, MOST_INTERVAL = 0.01, 3600.0
MOST_SHUTDOWN = 3600.0
MOST_BUFFER = 10_000_000
MOST_SYMBOLS = 100_000

_VARIABLES: Final = {
    "interval": "FEATURE_INTERVAL",
    "buffer": "FEATURE_BUFFER",
    "max_symbols": "FEATURE_MAX_SYMBOLS",
    "shutdown_timeout": "FEATURE_SHUTDOWN_TIMEOUT",
    "backend": "FEATURE_BACKEND",
    "health_host": "HEALTH_HOST",
    "health_port": "HEALTH_PORT",
    "log_level": "LOG_LEVEL",
}
"""The environment variable of each setting."""


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """The settings of the service. Each comes from the variable named in brackets, or is the default.

    Attributes:
        broker: where RabbitMQ is [``RABBITMQ_*``].
        sources: the queues to read, which another service owns.
        queue: the queue to publish to.
        interval: seconds between two vectors of a symbol, from 0.01 to 3600 [``FEATURE_INTERVAL``].
        buffer: how many accepted vectors may await their confirm [``FEATURE_BUFFER``].
        max_symbols: how many symbols to keep, from 2 to 100,000 [``FEATURE_MAX_SYMBOLS``]. If there are more,
            :mod:`feature_service.symbols` chooses.
        shutdown_timeout: seconds to publish the waiting vectors at the end, at most 3600
            [``FEATURE_SHUTDOWN_TIMEOUT``].
        health_host: address of the health endpoints [``HEALTH_HOST``]. They need no password, so the default is
            loopback; in a container, use ``0.0.0.0``.
        health_port: their port; 0 for none [``HEALTH_PORT``].
        log_level: such as ``INFO`` [``LOG_LEVEL``].
        backend: the event loop, ``asyncio`` or ``trio`` [``FEATURE_BACKEND``].

    Raises:
        SettingsError: a value is wrong; the text names its variable and a right value.
    """

    broker: anyamqp.Settings
    sources: tuple[str, ...] = SOURCES
    queue: str = QUEUE
    interval: float = 1.0
    buffer: int = 10_000
    max_symbols: int = 1_000
    shutdown_timeout: float = 10.0
    health_host: str = "127.0.0.1"
    health_port: int = 8080
    log_level: str = "INFO"
    backend: str = "asyncio"

    def __post_init__(self) -> None:
        if not self.sources or len(set(self.sources)) < len(self.sources):
            raise anyamqp.SettingsError(f"sources: {self.sources!r} are not the names of different queues")
        for name in (*self.sources, self.queue):
            if not 0 < len(name.encode()) <= 255:
                raise anyamqp.SettingsError(f"sources, queue: {name[:40]!r} is not a queue's name (1 to 255 bytes)")
        _check_seconds("interval", self.interval, LEAST_INTERVAL, MOST_INTERVAL)
        _check_seconds("shutdown_timeout", self.shutdown_timeout, 0, MOST_SHUTDOWN)
        _check_whole("buffer", self.buffer, 1, MOST_BUFFER)
        _check_whole("max_symbols", self.max_symbols, LEAST_SYMBOLS, MOST_SYMBOLS)
        _check_whole("health_port", self.health_port, 0, 65535)
        if not self.health_host or not self.health_host.isprintable() or " " in self.health_host:
            raise anyamqp.SettingsError(f"HEALTH_HOST: {self.health_host!r} is not an address")
        _check_one_of("log_level", self.log_level, tuple(logging.getLevelNamesMapping()))
        _check_one_of("backend", self.backend, BACKENDS)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> ServiceSettings:
        """Read the settings from the environment. An empty variable counts as absent.

        Args:
            environment: the variables; ``os.environ`` by default.

        Raises:
            SettingsError: a value is wrong; the text names its variable and a right value.
        """
        variables = os.environ if environment is None else environment

        def text(name: str, default: str) -> str:
            return variables.get(_VARIABLES[name]) or default

        def number(name: str, default: float) -> float:
            return _number(name, text(name, str(default)))

        def whole(name: str, default: int) -> int:
            return _whole(name, text(name, str(default)))

        return cls(
            broker=for_service(anyamqp.Settings.from_environment(variables)),
            interval=number("interval", cls.interval),
            buffer=whole("buffer", cls.buffer),
            max_symbols=whole("max_symbols", cls.max_symbols),
            shutdown_timeout=number("shutdown_timeout", cls.shutdown_timeout),
            health_host=text("health_host", cls.health_host),
            health_port=whole("health_port", cls.health_port),
            log_level=text("log_level", cls.log_level).upper(),
            backend=text("backend", cls.backend),
        )


def for_service(broker: anyamqp.Settings) -> anyamqp.Settings:
    """The broker's settings without any time limit: the service goes on computing while the broker is away."""
    return replace(broker, request_timeout=None, reconnect=replace(broker.reconnect, refusal_grace=inf))


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise anyamqp.SettingsError(f"{_VARIABLES[name]}: {text[:40]!r} is not a number of seconds") from None


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 12):
        raise anyamqp.SettingsError(f"{_VARIABLES[name]}: {text[:40]!r} is not a whole number")
    return int(text)


def _check_seconds(name: str, value: float, least: float, most: float) -> None:
    if not (value > 0 and least <= value <= most):  # false for NaN, too
        bounds = f"from {least:g} to {most:g}" if least else f"above 0, and at most {most:g}"
        raise anyamqp.SettingsError(f"{_VARIABLES[name]}: {value} is not a number of seconds {bounds}")


def _check_whole(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise anyamqp.SettingsError(f"{_VARIABLES[name]}: {value} is not a whole number from {least} to {most}")


def _check_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise anyamqp.SettingsError(f"{_VARIABLES[name]}: {value[:40]!r} is not one of {', '.join(known)}")
