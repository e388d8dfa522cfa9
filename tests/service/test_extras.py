"""Extras that are not installed: one sentence with the pip command, before anything starts."""

from __future__ import annotations

import sys

import pytest

from feature_service.__main__ import main


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        (["run"], "hypercorn", "health"),
        (["demo"], "rich", "demo"),
        (["demo", "--plain"], "rich", "demo"),
        (["demo", "--backend", "trio"], "trio", "trio"),
    ],
)
def test_missing_extra_exits_with_2_and_the_pip_command(
    command: list[str],
    package: str,
    extra: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for module in ("feature_service.demo", "feature_service.demo_view", "hypercorn.config"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setenv("RABBITMQ_URL", "amqp://127.0.0.1:1")
    monkeypatch.setenv("HEALTH_PORT", "1")
    assert main(command) == 2
    said = capsys.readouterr().err
    assert f"pip install 'feature-service[{extra}]'" in said
    assert said.count("\n") == 1


def test_missing_trio_of_a_service_that_is_to_run_on_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "trio", None)
    monkeypatch.setenv("RABBITMQ_URL", "amqp://127.0.0.1:1")
    monkeypatch.setenv("FEATURE_BACKEND", "trio")
    assert main(["run"]) == 2
    assert "FEATURE_BACKEND=trio needs trio: pip install 'feature-service[trio]'" in capsys.readouterr().err
