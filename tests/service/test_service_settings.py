"""The service's settings: each variable has its effect, and errors name a wrong one."""

from __future__ import annotations

import math
import re
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from anyamqp import Address, Credentials, Settings, SettingsError
from feature_service.__main__ import main
from feature_service.demo_cast import DemoOptions
from feature_service.settings import QUEUE, SOURCES, ServiceSettings


def test_empty_environment_has_the_documented_defaults() -> None:
    settings = ServiceSettings.from_environment({})
    assert settings.broker.addresses == (Address("localhost", 5672),)
    assert settings.broker.heartbeat == 60
    assert (settings.sources, settings.queue) == (SOURCES, QUEUE)
    assert (settings.interval, settings.buffer, settings.max_symbols) == (1.0, 10_000, 1_000)
    assert (settings.shutdown_timeout, settings.log_level, settings.backend) == (10.0, "INFO", "asyncio")
    assert (settings.health_host, settings.health_port) == ("127.0.0.1", 8080)


def test_every_variable_is_read() -> None:
    settings = ServiceSettings.from_environment(
        {
            "RABBITMQ_HOST": "rabbit",
            "RABBITMQ_HEARTBEAT": "5",
            "FEATURE_INTERVAL": "0.5",
            "FEATURE_BUFFER": "7",
            "FEATURE_MAX_SYMBOLS": "8",
            "FEATURE_SHUTDOWN_TIMEOUT": "3",
            "FEATURE_BACKEND": "trio",
            "HEALTH_HOST": "::1",
            "HEALTH_PORT": "0",
            "LOG_LEVEL": "debug",
        }
    )
    assert settings.broker.addresses == (Address("rabbit", 5672),)
    assert settings.broker.heartbeat == 5
    assert (settings.interval, settings.buffer, settings.shutdown_timeout) == (0.5, 7, 3.0)
    assert settings.max_symbols == 8
    assert (settings.backend, settings.health_host, settings.health_port) == ("trio", "::1", 0)
    assert settings.log_level == "DEBUG"


def test_a_broker_that_refuses_or_is_silent_is_waited_for_without_end() -> None:
    broker = ServiceSettings.from_environment({}).broker
    assert broker.request_timeout is None
    assert broker.reconnect.refusal_grace == math.inf


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RABBITMQ_PORT", "no"),
        ("RABBITMQ_HEARTBEAT", "-1"),
        ("FEATURE_INTERVAL", "0"),
        ("FEATURE_INTERVAL", "0.001"),
        ("FEATURE_INTERVAL", "1e300"),
        ("FEATURE_INTERVAL", "inf"),
        ("FEATURE_INTERVAL", "nan"),
        ("FEATURE_INTERVAL", "soon"),
        ("FEATURE_BUFFER", "0"),
        ("FEATURE_BUFFER", "1.5"),
        ("FEATURE_BUFFER", "9" * 100),
        ("FEATURE_MAX_SYMBOLS", "0"),
        ("FEATURE_MAX_SYMBOLS", "1"),
        ("FEATURE_MAX_SYMBOLS", "100001"),
        ("FEATURE_MAX_SYMBOLS", "many"),
        ("FEATURE_SHUTDOWN_TIMEOUT", "-1"),
        ("FEATURE_SHUTDOWN_TIMEOUT", "1e300"),
        ("FEATURE_BACKEND", "curio"),
        ("HEALTH_HOST", "not a host"),
        ("HEALTH_PORT", "65536"),
        ("HEALTH_PORT", "-1"),
        ("LOG_LEVEL", "LOUD"),
    ],
)
def test_a_wrong_variable_is_named_and_the_service_exits_with_2(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SettingsError, match=f"^{variable}"):
        ServiceSettings.from_environment({variable: value})
    monkeypatch.setenv(variable, value)
    assert main(["run"]) == 2
    assert variable in capsys.readouterr().err


def test_empty_variables_count_as_absent() -> None:
    names = ("FEATURE_INTERVAL", "FEATURE_BUFFER", "FEATURE_MAX_SYMBOLS", "FEATURE_SHUTDOWN_TIMEOUT", "LOG_LEVEL")
    others = ("FEATURE_BACKEND", "HEALTH_HOST", "HEALTH_PORT")
    assert ServiceSettings.from_environment(dict.fromkeys([*names, *others], "")) == ServiceSettings.from_environment(
        {}
    )


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"interval": 0.0}, "FEATURE_INTERVAL: 0.0 is not a number of seconds from 0.01 to 3600"),
        ({"shutdown_timeout": math.nan}, "FEATURE_SHUTDOWN_TIMEOUT: nan is not a number of seconds above 0, and at m"),
        ({"buffer": 0}, "FEATURE_BUFFER: 0 is not a whole number from 1 to 10000000"),
        ({"health_port": 70_000}, "HEALTH_PORT: 70000 is not a whole number from 0 to 65535"),
        ({"backend": "curio"}, "FEATURE_BACKEND: 'curio' is not one of asyncio, trio"),
        ({"sources": ()}, "sources: () are not the names of different queues"),
        ({"sources": ("a", "a")}, "sources: ('a', 'a') are not the names of different queues"),
        ({"queue": ""}, "sources, queue: '' is not a queue's name (1 to 255 bytes)"),
        ({"sources": ("a", "b" * 256)}, f"sources, queue: '{'b' * 40}' is not a queue's name (1 to 255 bytes)"),
    ],
    ids=str,
)
def test_a_wrong_value_in_code_is_refused_in_the_same_words(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError, match="^" + re.escape(text)):
        ServiceSettings(broker=Settings(), **wrong)


def test_a_wrong_url_of_the_demo_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--url", "http://user:s3cret@host"]) == 2
    told = capsys.readouterr().err
    assert "scheme" in told
    assert "s3cret" not in told


def test_a_demo_without_its_broker_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--url", "amqp://user:s3cret@127.0.0.1:1"]) == 1
    assert "s3cret" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "variables",
    [
        {"RABBITMQ_URL": "amqp://user:s3cret@127.0.0.1:1"},
        {"RABBITMQ_HOST": "127.0.0.1", "RABBITMQ_PORT": "1", "RABBITMQ_USER": "user", "RABBITMQ_PASSWORD": "s3cret"},
    ],
    ids=["url", "parts"],
)
def test_a_demo_takes_its_broker_from_the_environment(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[DemoOptions] = []

    async def demo(options: DemoOptions) -> int:
        await anyio.lowlevel.checkpoint()
        played.append(options)
        return 0

    monkeypatch.setattr("feature_service.demo.demo", demo)
    monkeypatch.delenv("RABBITMQ_URL", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["demo", "--url", "--plain"]) == 0
    broker = played[0].broker
    assert broker is not None
    assert broker.addresses == (Address("127.0.0.1", 1),)
    assert broker.credentials == Credentials("user", "s3cret")


def test_a_wrong_variable_of_the_demo_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RABBITMQ_URL", "http://user:s3cret@host")
    assert main(["demo", "--url"]) == 2
    told = capsys.readouterr().err
    assert "RABBITMQ_URL: " in told
    assert "s3cret" not in told
