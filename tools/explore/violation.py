"""The error of a broken property."""

from __future__ import annotations


class Violation(AssertionError):
    """A property does not hold."""
