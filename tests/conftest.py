"""What all tests share: the event loops to run on, and how hard the property tests try."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from hypothesis import settings

pytest_plugins = ("anyio",)

settings.register_profile("default", max_examples=200, stateful_step_count=40, deadline=None)
settings.register_profile("nightly", settings.get_profile("default"), max_examples=20_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_configure() -> None:
    """Heed Ctrl-C even where a shell ignores it for a background job: programs that tests start inherit that."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_logstart(nodeid: str) -> None:
    """Name the thread after its test: pytest-timeout shows stacks under their threads' names, and nothing else."""
    threading.main_thread().name = nodeid


@pytest.fixture(scope="module", params=["asyncio", "trio"], ids=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The event loop of a test marked ``anyio``: each such test runs on both."""
    backend: str = request.param
    return backend
