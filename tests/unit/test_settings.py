"""Settings: right values are accepted, errors name wrong ones, and no secret is shown."""

from __future__ import annotations

import ssl
from dataclasses import replace

import pytest

from anyamqp import (
    TLS,
    Address,
    Credentials,
    External,
    Mechanism,
    ReconnectPolicy,
    RecoveryMode,
    Settings,
    SettingsError,
    TopologyRecovery,
)
from anyamqp.protocol.sasl import Plain

SECRET = "s3cr3t-w0rd"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("heartbeat", -1),
        ("heartbeat", 1.5),
        ("heartbeat", True),
        ("channel_max", 65536),
        ("frame_max", 4096),
        ("max_message_size", -1),
        ("connect_timeout", 0),
        ("close_timeout", float("inf")),
        ("request_timeout", float("nan")),
        ("addresses", ()),
        ("name", "n" * 256),
        ("auth_mechanisms", ()),
        ("auth_mechanisms", ("plain",)),
        ("credentials", None),
        ("credentials", ("guest", "guest")),
        ("credentials", Credentials),
        ("credentials", External),
        ("tls", True),
        ("tls", TLS),
        ("tls", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)),
        ("reconnect", 5),
        ("reconnect", ReconnectPolicy),
        ("topology_recovery", RecoveryMode.NOTHING),
        ("addresses", [Address("host", 5672)]),
        ("addresses", (("host", 5672),)),
        ("addresses", (Address("host", 0),)),
        ("addresses", (Address("", 5672),)),
        ("auth_mechanisms", "PLAIN"),
        ("auth_mechanisms", (5,)),
        ("virtual_host", None),
        ("name", 5),
        ("heartbeat", "60"),
        ("connect_timeout", "10"),
        ("connect_timeout", True),
        ("connect_timeout", None),
        ("request_timeout", "60"),
        ("close_timeout", -1),
        ("shuffle", 1),
        ("client_properties", [("product", "mine")]),
        ("client_properties", {"product": object()}),
    ],
)
def test_a_wrong_value_is_named(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=name):
        replace(Settings(), **{name: value})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("initial", "0.1"),
        ("initial", True),
        ("initial", -1),
        ("initial", float("nan")),
        ("initial", float("inf")),
        ("factor", None),
        ("factor", 0.5),
        ("factor", "2"),
        ("maximum", "30"),
        ("jitter", "full"),
        ("jitter", True),
        ("jitter", 2),
        ("first", -0.1),
        ("first", "0.1"),
        ("first", True),
        ("stable_after", None),
        ("max_attempts", 1.5),
        ("max_attempts", "3"),
        ("max_attempts", True),
        ("max_attempts", 0),
        ("max_elapsed", "60"),
        ("max_elapsed", 0),
        ("refusal_grace", "60"),
    ],
)
def test_a_wrong_value_of_a_reconnect_policy_is_named(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=rf"^ReconnectPolicy\.{name}: "):
        ReconnectPolicy(**{name: value})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def is_wanted(_: object) -> bool:
    return True


@pytest.mark.parametrize(
    ("name", "value"),
    [("mode", "everything"), ("wanted", True), ("wanted", is_wanted), ("on_error", "log"), ("on_error", is_wanted)],
)
def test_a_wrong_value_of_a_topology_recovery_is_named(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=rf"^TopologyRecovery\.{name}: "):
        TopologyRecovery(**{name: value})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ca_file", 5),
        ("ca_file", True),
        ("verify", "verify_none"),
        ("verify", None),
        ("server_name", b"host"),
        ("certificate_file", 5),
    ],
)
def test_a_wrong_value_of_tls_is_named(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=rf"^TLS\.{name} "):
        TLS(**{name: value})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["username", "password"])
@pytest.mark.parametrize("value", [None, SECRET.encode(), 5])
def test_credentials_that_are_no_text_are_named_and_not_shown(name: str, value: object) -> None:
    given = {"username": "me", "password": "x", name: value}
    with pytest.raises(SettingsError, match=rf"^{name}: .* instead of text") as caught:
        Credentials(**given)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("urls", [5, b"amqp://host", [5], [b"amqp://host"], ["amqp://host", None], Address("host", 1)])
def test_urls_that_are_no_text_are_refused(urls: object) -> None:
    with pytest.raises(SettingsError, match=r"^urls: "):
        Settings.from_urls(urls)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_password_is_in_no_repr() -> None:
    settings = Settings.from_urls(f"amqp://me:{SECRET}@host")
    assert SECRET not in repr(settings)
    assert SECRET not in repr(settings.credentials)


# --- logging in -----------------------------------------------------------------------------------------------------


class OwnMechanism:
    """A mechanism that anyamqp does not know."""

    name = "OWN"

    def start(self) -> bytes:
        return b""

    def answer(self, challenge: bytes) -> bytes:
        return challenge


@pytest.mark.parametrize("mechanism", [OwnMechanism(), External(), Plain("me", SECRET)])
def test_a_mechanism_of_the_users_own_is_the_only_one(mechanism: Mechanism) -> None:
    settings = replace(Settings(), credentials=mechanism, auth_mechanisms=("EXTERNAL", "PLAIN"))
    assert settings.mechanisms(mechanism) == (mechanism,)


@pytest.mark.parametrize("expires_in", [0, -1.0, float("nan"), float("inf"), True, "300"])
def test_credentials_live_for_a_positive_time(expires_in: float) -> None:
    with pytest.raises(SettingsError, match="expires_in"):
        Credentials("me", SECRET, expires_in=expires_in)
