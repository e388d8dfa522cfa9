"""URLs and environment: right values are understood, errors name wrong ones, and no secret is shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyamqp import (
    TLS,
    Address,
    Credentials,
    Settings,
    SettingsError,
)

SECRET = "s3cr3t-w0rd"


def parse(*urls: str) -> Settings:
    return Settings.from_urls(urls, environment={})


def test_url_with_every_part() -> None:
    settings = parse(
        "amqp://me:p%40ss@broker.example:5673/my%2Fvhost?heartbeat=30&connection_timeout=2500&channel_max=7&name=x"
    )
    assert settings.addresses == (Address("broker.example", 5673),)
    assert settings.credentials == Credentials("me", "p@ss")
    assert settings.virtual_host == "my/vhost"
    assert (settings.heartbeat, settings.connect_timeout, settings.channel_max, settings.name) == (30, 2.5, 7, "x")


def test_bare_url_has_the_defaults_of_rabbitmq() -> None:
    assert parse("amqp://") == Settings()
    assert parse("amqp:///") == Settings()


@pytest.mark.parametrize("path", ["", "/"])
def test_empty_path_means_the_default_virtual_host(path: str) -> None:
    assert parse(f"amqp://host{path}").virtual_host == "/"


def test_ipv6_address() -> None:
    assert parse("amqp://[::1]:5673").addresses == (Address("::1", 5673),)
    assert str(Address("::1", 5673)) == "[::1]:5673"


def test_several_urls_give_their_addresses_in_order() -> None:
    settings = parse("amqp://u:p@a/v", "amqp://u:p@b:1/v")
    assert settings.addresses == (Address("a", 5672), Address("b", 1))


def test_several_urls_must_agree_in_the_rest() -> None:
    with pytest.raises(SettingsError, match="number 2 differs from the first in virtual_host"):
        parse("amqp://a/v", "amqp://b/w")


def test_several_urls_must_agree_in_the_scheme() -> None:
    with pytest.raises(SettingsError, match="number 2 differs from the first in its scheme"):
        parse("amqp://a", "amqps://b")
    with pytest.raises(SettingsError, match="number 3 differs from the first in tls"):
        parse("amqps://a", "amqps://b", "amqps://c?verify=verify_none")


@pytest.mark.parametrize(
    ("url", "user", "password", "virtual_host"),
    [
        ("amqp://a%3Ab:c%40d%2F%3F%23%25@host/%2F", "a:b", "c@d/?#%", "/"),
        ("amqp://user%61:%61pass@ho%61st:10000/v%2fhost", "usera", "apass", "v/host"),
        ("amqp://u+v:p+w@host/x+y", "u+v", "p+w", "x+y"),
        ("amqp://%C3%BC:%E2%82%AC@host/%C3%A9%2F%2f", "ü", "€", "é//"),
        ("amqp://:@host/", "", "", "/"),
        ("amqp://user@host/%25", "user", "", "%"),
    ],
)
def test_percent_encoding(url: str, user: str, password: str, virtual_host: str) -> None:
    settings = parse(url)
    assert settings.credentials == Credentials(user, password)
    assert settings.virtual_host == virtual_host


def test_host_with_percent_encoding_and_zone() -> None:
    assert parse("amqp://ho%61st").addresses == (Address("hoast", 5672),)
    assert parse("amqps://[fe80::1%25eth0]").addresses == (Address("fe80::1%eth0", 5671),)


# --- TLS ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "tls"),
    [
        ("", TLS()),
        ("?verify=verify_peer", TLS()),
        ("?verify=verify_none", TLS(verify=False)),
        ("?server_name_indication=rabbit.example", TLS(server_name="rabbit.example")),
        ("?server_name_indication=disable", TLS(server_name="")),
        ("?cacertfile=/etc/c++%20ca.pem", TLS(ca_file="/etc/c++ ca.pem")),
        (
            f"?certfile=c.pem&heartbeat=60&keyfile=k.pem&password=%26{SECRET}",
            TLS(certificate_file="c.pem", key_file="k.pem", key_password=f"&{SECRET}"),
        ),
    ],
)
def test_amqps_means_tls_with_what_the_query_says(query: str, tls: TLS) -> None:
    settings = parse(f"amqps://host/{query}")
    assert settings == replace(Settings(), addresses=(Address("host", 5671),), tls=tls)
    assert SECRET not in repr(settings)


def test_amqps_with_a_port_and_amqp_without_tls() -> None:
    assert parse("amqps://host:5672").addresses == (Address("host", 5672),)
    assert parse("amqp://host:5671").tls is None


@pytest.mark.parametrize("name", ["key_file", "key_password"])
def test_key_without_a_certificate_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"TLS\.{name} .* TLS\.certificate_file") as caught:
        TLS(**{name: SECRET})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert not re.search(SECRET, str(caught.value))


def test_no_url_at_all_is_refused() -> None:
    with pytest.raises(SettingsError, match="at least one"):
        parse()


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("http://host", "scheme"),
        ("host:5672", "scheme"),
        ("amqp://host:0", "port"),
        ("amqp://host:70000", "port"),
        (f"amqp://user:{SECRET}:x@host:port", "port"),
        ("amqp://[::1", "cannot be read"),
        (f"amqp://user:{SECRET}#@host", "#"),
        ("amqp://host/a/b", "%2F"),
        ("amqp://host/?heartbeat=-1", "heartbeat"),
        ("amqp://host/?heartbeat=1.5", "heartbeat"),
        ("amqp://host/?heartbeat=70000", "heartbeat"),
        ("amqp://host/?heartbeat=", "heartbeat"),
        ("amqp://host/?connection_timeout=0", "connection_timeout"),
        ("amqp://host/?channel_max=x", "channel_max"),
        ("amqp://host/?hartbeat=1", "URL query: parameter 1 is unknown; known are heartbeat"),
        (f"amqp://host/{'v' * 256}", "virtual_host"),
        ("amqp://host/?auth_mechanism=kerberos", "auth_mechanism: 'KERBEROS' is unknown; known are PLAIN and EXTERNAL"),
        ("amqp://host/?auth_mechanism=", "auth_mechanism"),
        ("amqp://host/?auth_mechanism=plain&auth_mechanism=ntlm", "NTLM"),
        ("amqp://host/?heartbeat=1&heartbeat=1", "heartbeat: is there more than once"),
        ("amqp://host/?heartbeat", "heartbeat"),
        ("amqp://host/?heartbeat=1&", "parameter 2 is unknown"),
        ("amqp://host/?channel_max=65536", "channel_max"),
        ("amqp://host/?connection_timeout=1.5", "connection_timeout"),
        ("amqp://host/?name=%ff", "URL query name: .* UTF-8"),
        (f"amqp://u%ser:{SECRET}@host", "URL user: a '%'"),
        (f"amqp://user:%{SECRET}@host", "URL password: a '%'"),
        (f"amqp://user:{SECRET}%ff@host", "URL password: .* UTF-8"),
        ("amqp://host/100%", "URL path: a '%'"),
        ("amqp://ho%zzst/", "URL host: a '%'"),
        ("amqp://ho%20st/", "URL host"),
        ("amqp://host/?cacertfile=ca.pem", "cacertfile: is only for the scheme amqps"),
        (f"amqp://host/?password={SECRET}", "password: is only for the scheme amqps"),
        ("amqps://host/?cacertfile=", "cacertfile: is empty"),
        ("amqps://host/?keyfile=k.pem", "keyfile.* certfile"),
        (f"amqps://host/?password={SECRET}", "password.* certfile"),
        (f"amqps://host/?certfile=c&password={SECRET}%", "URL query password: a '%'"),
        ("amqps://host/?verify=yes", "verify: 'yes' is neither 'verify_peer' nor 'verify_none'"),
        ("amqps://host/?server_name_indication=.x", "server_name_indication"),
        ("amqps://host/?cacert=x", "parameter 1 is unknown; known are .* cacertfile"),
        (f"amqp://user:12?{SECRET}", "parameter 1 is unknown"),
        (f"amqp://user:12?x={SECRET}&{SECRET}=y", "parameter 1 is unknown"),
        (f"amqp://user%3A{SECRET}%40host", "URL host: the value is not a host name"),
    ],
)
def test_a_wrong_part_of_a_url_is_named(url: str, named: str) -> None:
    with pytest.raises(SettingsError, match=named) as caught:
        parse(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


special = st.text(st.sampled_from("%:/?#[]@!$&'()*+,;=<>\\^`{|}~ \t\n\"aZ09.-_é€№"), max_size=6)
"""Every special character of ASCII, whether reserved in URLs or not, and some beyond."""
passwords = st.tuples(special, special).map(SECRET.join)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that hangs on it, which some tools log."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@given(passwords, st.sampled_from(["host/", "host:5672/vhost", "host:port/", "ho st/", "[::1", "host/?heartbeat=x"]))
def test_no_part_of_a_password_is_in_an_error_or_a_repr(password: str, rest: str) -> None:
    for written in (password, quote(password, safe=""), quote(password), password.replace("r", "%72") + "%ff"):
        for scheme in ("amqp", "amqps", "http"):
            try:
                settings = parse(f"{scheme}://user:{written}@{rest}")
            except SettingsError as refused:
                for error in chain(refused):
                    assert SECRET not in unquote(f"{error} {error!r} {vars(error)}")
            else:
                assert SECRET not in repr(settings)
                assert settings.credentials == Credentials("user", unquote(written))


@given(passwords, st.sampled_from(["?", "/?", "/vhost?", "?heartbeat=1&", "?password=x&"]))
def test_no_part_of_a_password_is_in_an_error_about_a_url_without_a_host(password: str, before: str) -> None:
    """What comes before the '?' then reads as a host and its port."""
    for written in (password, quote(password, safe=""), f"{quote(password)}=x", f"x&{quote(password)}"):
        for scheme in ("amqp", "amqps"):
            with pytest.raises(SettingsError) as caught:
                parse(f"{scheme}://user:12{before}{written}")
            for error in chain(caught.value):
                assert SECRET not in unquote(f"{error} {error!r} {vars(error)}")


@pytest.mark.parametrize(
    "url",
    [
        f"amqp://user:12?{SECRET}@host/",
        f"amqp://user:12/{SECRET}@host/",
        f"amqp://user:12/?{SECRET}@host/",
        f"amqp://user:12?heartbeat={SECRET}@host/",
        f"amqp://user:/{SECRET}@host",
        f"amqp://user:x@{SECRET}/@host",
        f"amqp://user:x?y={SECRET}&z@host",
    ],
)
def test_reserved_character_in_a_password_is_told_without_any_part_of_it(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^URL: '@' behind the host.*percent-encoded") as caught:
        parse(url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("control", ["\t", "\n", "\r", "\0", "\x7f"])
def test_control_character_in_a_url_is_refused(control: str) -> None:
    """urllib drops some of them, so that the login would be refused for a password that nobody wrote."""
    with pytest.raises(SettingsError, match="control character") as caught:
        parse(f"amqp://user:{SECRET}{control}x@host/")
    assert SECRET not in str(caught.value)


def test_part_of_the_password_of_a_key_is_not_taken_for_a_parameter() -> None:
    with pytest.raises(SettingsError, match="parameter 3 is unknown") as caught:
        parse(f"amqps://host/?certfile=c&password=x&{SECRET}")
    assert SECRET not in str(caught.value)


@given(st.text())
def test_any_text_is_a_url_or_a_settings_error(text: str) -> None:
    for url in (text, f"amqp://{text}", f"amqp://u:{SECRET}@{text}", f"amqp://host/?{text}"):
        try:
            parse(url)
        except SettingsError as error:
            assert SECRET not in str(error)


def test_environment_variables_one_by_one() -> None:
    settings = Settings.from_environment(
        {
            "RABBITMQ_HOST": "rabbit",
            "RABBITMQ_PORT": "5673",
            "RABBITMQ_USER": "me",
            "RABBITMQ_PASSWORD": SECRET,
            "RABBITMQ_VHOST": "market",
            "RABBITMQ_HEARTBEAT": "15",
        }
    )
    assert settings.addresses == (Address("rabbit", 5673),)
    assert settings.credentials == Credentials("me", SECRET)
    assert (settings.virtual_host, settings.heartbeat) == ("market", 15)


def test_empty_environment_has_the_defaults() -> None:
    assert Settings.from_environment({}) == Settings()


def test_empty_variables_count_as_missing_ones() -> None:
    names = ("URL", "HOST", "PORT", "USER", "PASSWORD", "VHOST", "HEARTBEAT")
    assert Settings.from_environment({f"RABBITMQ_{name}": "" for name in names}) == Settings()


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("amqp://me@host", Credentials("me", SECRET)),
        ("amqp://me:own@host", Credentials("me", "own")),
        ("amqp://host", Credentials("guest", "guest")),
    ],
)
def test_password_of_the_environment_is_for_its_url_with_a_user_only(url: str, login: Credentials) -> None:
    assert Settings.from_environment({"RABBITMQ_URL": url, "RABBITMQ_PASSWORD": SECRET}).credentials == login


def test_url_in_the_environment_comes_before_the_single_variables() -> None:
    settings = Settings.from_environment({"RABBITMQ_URL": "amqp://a/", "RABBITMQ_HOST": "b"})
    assert settings.addresses == (Address("a", 5672),)


def test_heartbeat_of_the_url_comes_before_the_environment() -> None:
    assert Settings.from_urls("amqp://a/?heartbeat=9", environment={"RABBITMQ_HEARTBEAT": "15"}).heartbeat == 9
    assert Settings.from_urls("amqp://a/", environment={"RABBITMQ_HEARTBEAT": "15"}).heartbeat == 15
    assert Settings.from_urls("amqp://a/", environment={}).heartbeat == 60


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"RABBITMQ_PORT": "http"}, "RABBITMQ_PORT"),
        ({"RABBITMQ_PORT": "0"}, "RABBITMQ_PORT"),
        ({"RABBITMQ_HEARTBEAT": "soon"}, "RABBITMQ_HEARTBEAT"),
        ({"RABBITMQ_URL": f"amqp://u:{SECRET}@h:x"}, "RABBITMQ_URL"),
        ({"RABBITMQ_URL": "amqp://h", "RABBITMQ_HEARTBEAT": "soon"}, "^RABBITMQ_HEARTBEAT"),
        ({"RABBITMQ_HOST": "a b"}, "RABBITMQ_HOST: 'a b' is not a host name"),
        ({"RABBITMQ_HOST": f"u:{SECRET}@h"}, "RABBITMQ_HOST: the value is not a host name"),
        ({"RABBITMQ_HOST": f"amqp://u:{SECRET}"}, "RABBITMQ_HOST: the value is not a host name"),
    ],
)
def test_a_wrong_variable_is_named(variables: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named) as caught:
        Settings.from_environment(variables)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["PLAIN"]),
        ("?auth_mechanism=plain", ["PLAIN"]),
        ("?auth_mechanism=External", ["EXTERNAL"]),
        ("?auth_mechanism=EXTERNAL&heartbeat=9&auth_mechanism=plain", ["EXTERNAL", "PLAIN"]),
    ],
)
def test_url_names_the_mechanisms_in_order_of_preference(query: str, names: list[str]) -> None:
    settings = parse(f"amqp://me:{SECRET}@host/{query}")
    assert isinstance(settings.credentials, Credentials)
    mechanisms = settings.mechanisms(settings.credentials)
    assert [mechanism.name for mechanism in mechanisms] == names
    for mechanism in mechanisms:
        assert mechanism.start() == (f"\0me\0{SECRET}".encode() if mechanism.name == "PLAIN" else b"")


def test_several_urls_must_agree_in_the_mechanisms() -> None:
    with pytest.raises(SettingsError, match="auth_mechanisms"):
        parse("amqp://a/?auth_mechanism=plain", "amqp://b/?auth_mechanism=external")
