"""Closes of connections and channels as errors: those that the broker sends, and those that its faults call for."""

from __future__ import annotations

from typing import Final

from anyamqp.errors import CloseFacts, CloseFrame, ReplyError, Side, printable, reply_error
from anyamqp.wire import methods
from anyamqp.wire.frames import method_name

REPLY_SUCCESS: Final = 200
"""The reply code of a close without an error (AMQP 0-9-1, reply-success)."""


def unexpected(error: type[ReplyError], text: str) -> ReplyError:
    """The error for something that the broker may not send."""
    return error(text, found_by=Side.CLIENT)


def frame_of(close: methods.Connection.Close | methods.Channel.Close) -> CloseFrame:
    """The contents of the broker's close."""
    culprit = None
    if close.class_id:
        known = methods.INDEX_MAPPING.get(close.class_id << 16 | close.method_id)
        culprit = method_name(known) if known else f"method {close.class_id}.{close.method_id}"
    return CloseFrame(close.reply_code, printable(close.reply_text), culprit)


def error_of(close: CloseFrame) -> ReplyError:
    """The error that the broker's close reports, where the broker closed first."""
    return reply_error(close.code, close.text, method=close.method, close=CloseFacts(close, None, Side.BROKER))
