"""AMQP URLs and environment variables, read into the values of :class:`~anyamqp.settings.Settings`.

URLs follow RabbitMQ's "URI Specification" and "URI Query Parameters", with one exception that all clients share: a path
of just ``/`` means the virtual host ``/``, not the one with the empty name.

No error shows a URL or a part of it that may belong to a password.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast
from urllib.parse import SplitResult, unquote, urlsplit

from anyamqp.endpoint import DEFAULT_PORT, DEFAULT_TLS_PORT, TLS, TLS_QUERY, Address, Credentials, check_mechanism
from anyamqp.errors import SettingsError

DEFAULT_HEARTBEAT = 60


def read_urls(urls: object, environment: Mapping[str, str]) -> dict[str, Any]:
    """The values of one URL, or of several for the nodes of one cluster, by their names in ``Settings``.

    Args:
        urls: the URL or URLs.
        environment: the variables, of which ``RABBITMQ_HEARTBEAT`` is read when no URL has ``heartbeat``.

    Raises:
        SettingsError: a part is wrong, or the URLs differ in more than their addresses.
    """
    each = [_read_url(url) for url in _each_of(urls)]
    _, first = each[0]
    for position, (_, other) in enumerate(each[1:], start=2):
        if ("tls" in first) is not ("tls" in other):
            raise SettingsError(f"urls: number {position} differs from the first in its scheme: amqp and amqps")
        for name in first.keys() | other.keys():
            if first.get(name) != other.get(name):
                raise SettingsError(f"urls: number {position} differs from the first in {name}")
    return {"heartbeat": _heartbeat_from(environment), **first, "addresses": tuple(address for address, _ in each)}


def read_variables(environment: Mapping[str, str]) -> dict[str, Any]:
    """The values of ``RABBITMQ_HOST``, ``_PORT``, ``_USER``, ``_PASSWORD``, ``_VHOST`` and ``_HEARTBEAT``.

    Raises:
        SettingsError: a value is wrong; the text names the variable.
    """
    port = _whole_from("RABBITMQ_PORT", environment.get("RABBITMQ_PORT") or str(DEFAULT_PORT), 1, 65535)
    host = _checked_host("RABBITMQ_HOST", environment.get("RABBITMQ_HOST") or "localhost")
    user, password = environment.get("RABBITMQ_USER"), environment.get("RABBITMQ_PASSWORD")
    return {
        "addresses": (Address(host, port),),
        "credentials": Credentials(user or "guest", password or "guest"),
        "virtual_host": environment.get("RABBITMQ_VHOST") or "/",
        "heartbeat": _heartbeat_from(environment),
    }


def _each_of(urls: object) -> list[str]:
    is_one = isinstance(urls, str | bytes) or not isinstance(urls, Iterable)
    given: list[object] = [urls] if is_one else list(cast("Iterable[object]", urls))
    for url in given:
        if not isinstance(url, str):
            raise SettingsError(f"urls: {type(url).__name__} instead of a URL, which is text, or of several")
    if not given:
        raise SettingsError("urls: at least one is needed")
    return cast("list[str]", given)


def _read_url(url: str) -> tuple[Address, dict[str, object]]:
    url = url.strip()
    _check_readable(url)
    parts, port, problem = None, None, ""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        problem = _without_secret(error)
    # Raised outside the except block: urllib's error quotes the text, and must not be the context of ours.
    if parts is None or problem:
        raise SettingsError(f"URL: {problem}")
    if parts.scheme not in ("amqp", "amqps"):
        raise SettingsError(f"URL scheme: {parts.scheme!r} is neither 'amqp' nor 'amqps'")
    is_tls = parts.scheme == "amqps"
    if port == 0:
        raise SettingsError("URL port: 0 is not between 1 and 65535")
    values: dict[str, object] = {}
    if parts.username is not None or parts.password is not None:
        values["credentials"] = Credentials(
            _decoded("URL user", parts.username or ""), _decoded("URL password", parts.password or "")
        )
    path = parts.path[1:]
    if "/" in path:
        raise SettingsError("URL path: a '/' inside the virtual host's name must be percent-encoded (%2F)")
    if path:
        values["virtual_host"] = _decoded("URL path", path)
    values.update(_from_query(parts.query, is_tls=is_tls))
    return Address(_host(parts), port or (DEFAULT_TLS_PORT if is_tls else DEFAULT_PORT)), values


def _check_readable(url: str) -> None:
    """Refuse a URL whose password may contain reserved characters: later errors would show parts of it."""
    if any(character < " " or character == "\x7f" for character in url):
        raise SettingsError("URL: a control character in it must be percent-encoded")
    if "#" in url:
        raise SettingsError("URL: '#' must be percent-encoded (%23), in a password too")
    _, separator, rest = url.partition("://")
    if not separator:
        raise SettingsError("URL scheme: there is none; a URL begins with amqp:// or amqps://")
    if "@" in rest[len(re.split("[/?]", rest, maxsplit=1)[0]) :]:
        raise SettingsError(
            "URL: '@' behind the host; reserved characters such as '@', '/' and '?' must be percent-encoded "
            "(%40, %2F, %3F), in a password too"
        )


def _host(parts: SplitResult) -> str:
    return _checked_host("URL host", _decoded("URL host", parts.hostname)) if parts.hostname else "localhost"


def _checked_host(name: str, host: str) -> str:
    if not host.isprintable() or any(character in host for character in " @/"):
        # Text with '@' or ':' may be a piece of a URL that contains a password.
        shown = "the value" if "@" in host or ":" in host else repr(host)
        raise SettingsError(f"{name}: {shown} is not a host name")
    return host


_LONE_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")


def _decoded(part: str, text: str) -> str:
    # Guessing the meaning would lead to a refused login, far from its cause.
    if _LONE_PERCENT.search(text):
        raise SettingsError(f"{part}: a '%' that begins no percent-encoding must itself be encoded (%25)")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        pass  # raised below: this error contains the text, and must not be the context of ours
    raise SettingsError(f"{part}: percent-encoded bytes are not UTF-8")


_QUERY = ("heartbeat", "connection_timeout", "channel_max", "name", "auth_mechanism")


def _from_query(query: str, *, is_tls: bool) -> dict[str, object]:
    values: dict[str, object] = {}
    tls: dict[str, Any] = {}
    mechanisms: list[str] = []
    seen: set[str] = set()
    # Not parse_qsl: it reads '+' as a space, as in HTML forms, but file names contain '+'.
    for number, pair in enumerate(query.split("&") if query else (), start=1):
        key, _, encoded = pair.partition("=")
        key = _decoded("URL query", key)
        part = f"URL query {key}"
        _check_query_key(key, number, is_tls=is_tls)
        if key in seen and key != "auth_mechanism":
            raise SettingsError(f"{part}: is there more than once")
        seen.add(key)
        text = _decoded(part, encoded)
        if key == "heartbeat":
            values["heartbeat"] = _whole_from(part, text, 0, 65535)
        elif key == "connection_timeout":
            values["connect_timeout"] = _whole_from(part, text, 1, 2**31) / 1000
        elif key == "channel_max":
            values["channel_max"] = _whole_from(part, text, 0, 65535)
        elif key == "name":
            values["name"] = text
        elif key == "auth_mechanism":
            mechanisms.append(check_mechanism(part, text.upper()))
        else:
            tls[TLS_QUERY[key]] = _tls_value(part, key, text)
    if mechanisms:
        values["auth_mechanisms"] = tuple(mechanisms)
    if is_tls:
        values["tls"] = TLS(**tls)
    return values


def _check_query_key(key: str, number: int, *, is_tls: bool) -> None:
    if key in TLS_QUERY:
        if not is_tls:
            raise SettingsError(f"URL query {key}: is only for the scheme amqps")
    elif key not in _QUERY:
        known = ", ".join((*_QUERY, *TLS_QUERY))
        # The key is not quoted: it may be the rest of a password with '?' or '&', as in amqp://user:12?secret.
        raise SettingsError(f"URL query: parameter {number} is unknown; known are {known}")


def _tls_value(part: str, key: str, text: str) -> str | bool:
    if not text:
        raise SettingsError(f"{part}: is empty")
    if key == "verify":
        if text not in ("verify_peer", "verify_none"):
            raise SettingsError(f"{part}: {text!r} is neither 'verify_peer' nor 'verify_none'")
        return text == "verify_peer"
    # "disable" comes from Erlang's ssl application, which then verifies no name either.
    return "" if (key, text) == ("server_name_indication", "disable") else text


def _heartbeat_from(environment: Mapping[str, str]) -> int:
    text = environment.get("RABBITMQ_HEARTBEAT")
    return _whole_from("RABBITMQ_HEARTBEAT", text, 0, 65535) if text else DEFAULT_HEARTBEAT


def _whole_from(name: str, text: str, low: int, high: int) -> int:
    # isdecimal alone would accept digits of other scripts, int alone "1_000" and " 1".
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and low <= int(text) <= high):
        raise SettingsError(f"{name}: {text!r} is not a whole number from {low} to {high}")
    return int(text)


def _without_secret(error: ValueError) -> str:
    # urllib quotes the text that it could not parse; with a stray '@' or ':' that may be the password.
    if "ort" not in str(error):
        return "it cannot be read"
    return "port: not a number from 1 to 65535 (reserved characters in a password must be percent-encoded)"
