"""What the service is told by its environment."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Final

import anyamqp
from feature_service.exchange import BOOKS, TICKERS, TRADES

SOURCES: Final = (TRADES, TICKERS, BOOKS)
QUEUE: Final = "features.live"
BACKENDS: Final = ("asyncio", "trio")


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """The settings of the service; each comes from the variable named in brackets, or has its default.

    Attributes:
        broker: where RabbitMQ is [``RABBITMQ_*``].
        sources: the queues to read, which another service owns.
        queue: the queue to publish to.
        interval: seconds from one vector of a symbol to the next [``FEATURE_INTERVAL``].
        buffer: how many accepted vectors may wait for their confirm [``FEATURE_BUFFER``].
        shutdown_timeout: seconds that the waiting vectors get at the end [``FEATURE_SHUTDOWN_TIMEOUT``].
        health_host: address of the health endpoint [``HEALTH_HOST``].
        health_port: its port; 0 for none [``HEALTH_PORT``].
        log_level: such as ``INFO`` [``LOG_LEVEL``].
        backend: the event loop, ``asyncio`` or ``trio`` [``FEATURE_BACKEND``].
    """

    broker: anyamqp.Settings
    sources: tuple[str, ...] = SOURCES
    queue: str = QUEUE
    interval: float = 1.0
    buffer: int = 10_000
    shutdown_timeout: float = 10.0
    health_host: str = "0.0.0.0"  # noqa: S104 - in a container, health is asked from outside
    health_port: int = 8080
    log_level: str = "INFO"
    backend: str = "asyncio"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> ServiceSettings:
        """The settings that the environment holds.

        Args:
            environment: the variables; ``os.environ`` by default.

        Raises:
            SettingsError: a value is wrong; the text names the variable and says what would be right.
        """
        variables = os.environ if environment is None else environment
        return cls(
            broker=for_service(anyamqp.Settings.from_environment(variables)),
            interval=_seconds(variables, "FEATURE_INTERVAL", cls.interval),
            buffer=_whole(variables, "FEATURE_BUFFER", cls.buffer, least=1),
            shutdown_timeout=_seconds(variables, "FEATURE_SHUTDOWN_TIMEOUT", cls.shutdown_timeout),
            health_host=variables.get("HEALTH_HOST") or cls.health_host,
            health_port=_whole(variables, "HEALTH_PORT", cls.health_port, least=0, most=65535),
            log_level=_one_of(variables, "LOG_LEVEL", cls.log_level, tuple(logging.getLevelNamesMapping())),
            backend=_one_of(variables, "FEATURE_BACKEND", cls.backend, BACKENDS),
        )


def for_service(broker: anyamqp.Settings) -> anyamqp.Settings:
    """The same broker, waited for however long it is away: computing goes on meanwhile, and health tells."""
    return replace(broker, request_timeout=None, reconnect=replace(broker.reconnect, refusal_grace=inf))


def _seconds(variables: Mapping[str, str], name: str, default: float) -> float:
    text = variables.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (isfinite(value) and value > 0):
        raise anyamqp.SettingsError(f"{name}: {text!r} is not a number of seconds above 0")
    return value


def _whole(variables: Mapping[str, str], name: str, default: int, *, least: int, most: int = 10_000_000) -> int:
    text = variables.get(name)
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and least <= int(text) <= most):
        raise anyamqp.SettingsError(f"{name}: {text!r} is not a whole number from {least} to {most}")
    return int(text)


def _one_of(variables: Mapping[str, str], name: str, default: str, known: tuple[str, ...]) -> str:
    text = variables.get(name) or default
    if text not in known:
        raise anyamqp.SettingsError(f"{name}: {text!r} is not one of {', '.join(known)}")
    return text
