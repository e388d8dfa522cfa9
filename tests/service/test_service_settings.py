"""The service's settings: each variable does what it says, and a wrong one is named."""

from __future__ import annotations

import math

import pytest

from anyamqp import Address, SettingsError
from feature_service.__main__ import main
from feature_service.settings import QUEUE, SOURCES, ServiceSettings


def test_empty_environment_has_the_documented_defaults() -> None:
    settings = ServiceSettings.from_environment({})
    assert settings.broker.addresses == (Address("localhost", 5672),)
    assert settings.broker.heartbeat == 60
    assert (settings.sources, settings.queue) == (SOURCES, QUEUE)
    assert (settings.interval, settings.buffer, settings.health_port) == (1.0, 10_000, 8080)


def test_every_variable_is_read() -> None:
    settings = ServiceSettings.from_environment(
        {
            "RABBITMQ_HOST": "rabbit",
            "RABBITMQ_HEARTBEAT": "5",
            "FEATURE_INTERVAL": "0.5",
            "FEATURE_BUFFER": "7",
            "FEATURE_SHUTDOWN_TIMEOUT": "3",
            "FEATURE_BACKEND": "trio",
            "HEALTH_HOST": "127.0.0.1",
            "HEALTH_PORT": "0",
            "LOG_LEVEL": "DEBUG",
        }
    )
    assert settings.broker.addresses == (Address("rabbit", 5672),)
    assert settings.broker.heartbeat == 5
    assert (settings.interval, settings.buffer, settings.shutdown_timeout) == (0.5, 7, 3.0)
    assert (settings.backend, settings.health_host, settings.health_port) == ("trio", "127.0.0.1", 0)
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
        ("FEATURE_INTERVAL", "nan"),
        ("FEATURE_INTERVAL", "soon"),
        ("FEATURE_BUFFER", "0"),
        ("FEATURE_BUFFER", "1.5"),
        ("FEATURE_SHUTDOWN_TIMEOUT", "-1"),
        ("FEATURE_BACKEND", "curio"),
        ("HEALTH_PORT", "65536"),
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


def test_a_wrong_url_of_the_demo_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--url", "http://user:s3cret@host"]) == 2
    told = capsys.readouterr().err
    assert "scheme" in told
    assert "s3cret" not in told


def test_a_demo_without_its_broker_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--url", "amqp://user:s3cret@127.0.0.1:1"]) == 1
    assert "s3cret" not in capsys.readouterr().err
