"""The SASL mechanisms byte by byte: RFC 4616 for PLAIN, RFC 4422 appendix A for EXTERNAL."""

from __future__ import annotations

import pytest

from anyamqp import Credentials, External, Mechanism
from anyamqp.protocol.sasl import Plain

SECRET = "s3cr3t-w0rd"


def test_plain_says_everything_at_once() -> None:
    assert Plain("tim", "tanstaaftanstaaf").start() == b"\x00tim\x00tanstaaftanstaaf"


def test_plain_is_utf_8() -> None:
    assert Plain("jürgen", "ключ").start() == "\0jürgen\0ключ".encode()


def test_plain_gives_bytes_that_are_no_text_back_as_they_were() -> None:
    # os.environ gives bytes that are not UTF-8 as lone surrogates.
    password = b"hunter2\xff".decode("utf-8", "surrogateescape")
    assert Plain("u", password).start() == b"\x00u\x00hunter2\xff"


def test_plain_has_nothing_to_say_to_a_challenge() -> None:
    assert Plain("u", "p").answer(b"what else?") == b""


@pytest.mark.parametrize(("given", "said"), [("", b""), ("admin", b"admin"), ("jürgen", "jürgen".encode())])
def test_external_says_only_who_to_act_as(given: str, said: bytes) -> None:
    mechanism = External(given)
    assert mechanism.start() == said
    assert mechanism.answer(b"") == said


def test_external_acts_as_nobody_else_by_itself() -> None:
    assert External() == External("")


@pytest.mark.parametrize(("mechanism", "name"), [(Plain("u", "p"), "PLAIN"), (External(), "EXTERNAL")])
def test_mechanisms_have_their_registered_names(mechanism: Mechanism, name: str) -> None:
    assert isinstance(mechanism, Mechanism)
    assert mechanism.name == name


@pytest.mark.parametrize("other", [Credentials("u", "p"), lambda: None, "PLAIN"])
def test_what_lacks_a_part_is_no_mechanism(other: object) -> None:
    assert not isinstance(other, Mechanism)


def test_password_is_in_no_repr() -> None:
    assert SECRET not in repr(Plain("u", SECRET))
    assert SECRET not in repr([Plain("u", SECRET)])
