"""The error tree: every class says whose fault it is and whether a retry can cure it."""

from __future__ import annotations

import pytest

import anyamqp
from anyamqp import errors
from anyamqp.errors import AnyamqpError, Blame, Cure, ReplyError, Side, reply_error


def tree(root: type[AnyamqpError]) -> list[type[AnyamqpError]]:
    return [root, *(below for child in root.__subclasses__() for below in tree(child))]


@pytest.mark.parametrize("error", tree(AnyamqpError), ids=lambda error: error.__name__)
def test_every_class_has_blame_and_cure(error: type[AnyamqpError]) -> None:
    assert isinstance(error.blame, Blame)
    assert isinstance(error.cure, Cure)


@pytest.mark.parametrize("error", tree(AnyamqpError), ids=lambda error: error.__name__)
def test_every_class_is_public_and_in_the_drawing(error: type[AnyamqpError]) -> None:
    assert error.__name__ in anyamqp.__all__
    assert error.__name__ in (errors.__doc__ or "")


# AMQP 0-9-1 specification, section 1.4, and which of them close the channel only.
SOFT = {311, 312, 313, 403, 404, 405, 406}
HARD = {320, 402, 501, 502, 503, 504, 505, 506, 530, 540, 541}


@pytest.mark.parametrize("code", sorted(SOFT | HARD))
def test_every_reply_code_has_its_own_class(code: int) -> None:
    error = reply_error(code, "TEXT", method="queue.declare")
    assert error.code == code
    assert type(error) is not ReplyError
    assert error.hard == (code in HARD)
    assert str(error) == "TEXT (queue.declare)"


def test_no_class_stands_for_a_code_that_amqp_does_not_have() -> None:
    assert set(errors.REPLY_ERRORS) == SOFT | HARD


def test_an_unknown_code_keeps_its_number() -> None:
    error = reply_error(999, "what")
    assert isinstance(error, errors.InternalError)
    assert "999" in str(error)


def test_a_fault_that_we_found_is_the_brokers() -> None:
    assert errors.FrameError("bad").blame is Blame.LIBRARY
    assert errors.FrameError("bad", found_by=Side.CLIENT).blame is Blame.BROKER


@pytest.mark.parametrize(
    ("error", "also"),
    [
        (errors.SettingsError, ValueError),
        (errors.InvalidArgument, ValueError),
        (errors.InvalidUse, RuntimeError),
        (errors.PublishTimeout, TimeoutError),
        (errors.ReadyTimeout, TimeoutError),
    ],
)
def test_errors_are_what_python_would_call_them(error: type[AnyamqpError], also: type[Exception]) -> None:
    assert issubclass(error, also)


def test_a_publish_timeout_says_whether_the_broker_may_have_the_message() -> None:
    assert "may have it" in str(errors.PublishTimeout("m", sent=True))
    assert "never sent" in str(errors.PublishTimeout("m", sent=False))
