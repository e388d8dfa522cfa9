"""A Celery worker and its caller: results over ``rpc://``, a retry, an error, a countdown, and a chord of 20 tasks."""

import sys

from celery import Celery, group
from celery.contrib.testing.worker import start_worker

app = Celery("exercise", broker=sys.argv[1], backend="rpc://")
app.conf.update(broker_connection_retry_on_startup=True, task_acks_late=True, worker_prefetch_multiplier=1)
attempts = []


@app.task
def add(one: int, other: int) -> int:
    return one + other


@app.task(bind=True, max_retries=3)
def unsteady(self) -> int:
    attempts.append(self.request.retries)
    if len(attempts) < 3:
        raise self.retry(countdown=0.01)
    return len(attempts)


@app.task
def fail() -> None:
    raise ValueError("no such thing")


with start_worker(app, perform_ping_check=False, pool="threads", concurrency=2, loglevel="warning"):
    assert add.delay(1, 2).get(timeout=10) == 3
    assert unsteady.delay().get(timeout=10) == 3
    assert attempts == [0, 1, 2]
    try:
        fail.delay().get(timeout=10)
    except ValueError as error:
        assert error.args == ("no such thing",)
    else:
        raise AssertionError("no error")
    assert add.apply_async((3, 4), countdown=0.01).get(timeout=10) == 7
    results = group(add.s(number, number) for number in range(20))().get(timeout=10)
    assert results == [2 * number for number in range(20)]
    assert app.control.inspect(timeout=1).ping()
app.control.purge()
