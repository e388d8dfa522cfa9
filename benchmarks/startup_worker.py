"""One process that starts: ``python -m benchmarks.startup_worker`` with one of

* ``import MODULE``
* ``connect CLIENT URL COUNT``
* ``confirm CLIENT URL``

Prints one line of JSON. Nothing is imported at the top but what every Python has in memory already, or an import
measured here would find its dependencies done.
"""

import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Publishing = Callable[[], Coroutine[object, object, tuple[float, float]]]
    """Publishes its first message, and returns the wall and the CPU time then."""
    Runner = Callable[[Publishing], tuple[float, float]]


def main() -> None:
    """Do what the arguments say."""
    what, name, *rest = sys.argv[1:]
    if what == "import":
        result = measure_import(name)
    elif what == "connect":
        result = measure_connect(name, rest[0], int(rest[1]))
    else:
        result = measure_first_confirm(name, rest[0])
    import json

    sys.stdout.write(json.dumps(result) + "\n")


def measure_import(module: str) -> dict[str, object]:
    """Import a package: ms of wall and CPU time, KiB read from the disk, the modules that came, and their files."""
    already = set(sys.modules)
    read, cpu, began = _kib_read(), time.process_time(), time.perf_counter()
    __import__(module)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    read = _kib_read() - read
    modules = [one for name, one in sys.modules.items() if name not in already]
    files = {getattr(one, where, None) for one in modules for where in ("__file__", "__cached__")}
    return {
        "ms": seconds * 1000,
        "cpu": cpu_seconds * 1000,
        "read": read,
        "modules": len(modules),
        "files": sorted(file for file in files if file),
    }


def _kib_read() -> float:
    try:
        with open("/proc/self/io") as counters:  # noqa: PTH123 - pathlib would be imported before it is measured
            return next(int(line.split()[1]) for line in counters if line.startswith("read_bytes")) / 1024
    except OSError:
        return 0.0


def measure_connect(client: str, url: str, count: int) -> dict[str, object]:
    """Connect so many times, one after the other: ms of each, from the call until the connection can be used."""
    if client == "raw socket":
        times = _raw(url, count)
    elif client == "aio-pika":
        times = _aio_pika(url, count)
    else:
        times = _anyamqp(url, count, "trio" if client.endswith("trio") else "asyncio")
    return {"ms": [seconds * 1000 for seconds in times]}


def measure_first_confirm(client: str, url: str) -> dict[str, object]:
    """From the end of the imports to the first confirm: ms of wall and CPU time, and how many modules came meanwhile.

    The event loop's library is imported before the client, as the order of imports in a program has it.
    """
    run = _runner_on_trio() if client.endswith("trio") else _runner_on_asyncio()
    publish = _first_of_aio_pika(url) if client == "aio-pika" else _first_of_anyamqp(url)
    already, cpu, began = len(sys.modules), time.process_time(), time.perf_counter()
    ended, ended_cpu = run(publish)
    return {"ms": (ended - began) * 1000, "cpu": (ended_cpu - cpu) * 1000, "modules": len(sys.modules) - already}


def _runner_on_asyncio() -> "Runner":
    import asyncio

    return lambda publish: asyncio.run(publish())


def _runner_on_trio() -> "Runner":
    import trio

    return trio.run


def _first_of_anyamqp(url: str) -> "Publishing":
    import anyamqp

    async def publish() -> tuple[float, float]:
        async with anyamqp.connect(url) as connection, connection.publisher() as publisher:
            await publisher.publish(anyamqp.Message(b""), routing_key="nowhere", mandatory=False)
            return time.perf_counter(), time.process_time()

    return publish


def _first_of_aio_pika(url: str) -> "Publishing":
    import aio_pika

    async def publish() -> tuple[float, float]:
        async with await aio_pika.connect_robust(url) as connection:
            channel = await connection.channel()
            await channel.default_exchange.publish(aio_pika.Message(b""), "nowhere", mandatory=False)
            return time.perf_counter(), time.process_time()

    return publish


def _raw(url: str, count: int) -> list[float]:
    from benchmarks.wire import Wire

    times: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        with Wire(url):
            times.append(time.perf_counter() - began)
    return times


def _anyamqp(url: str, count: int, loop: str) -> list[float]:
    import anyio

    import anyamqp

    async def connect() -> list[float]:
        times: list[float] = []
        for _ in range(count):
            began = time.perf_counter()
            async with anyamqp.connect(url):
                times.append(time.perf_counter() - began)
        return times

    return anyio.run(connect, backend=loop)


def _aio_pika(url: str, count: int) -> list[float]:
    import asyncio

    import aio_pika

    async def connect() -> list[float]:
        times: list[float] = []
        for _ in range(count):
            began = time.perf_counter()
            async with await aio_pika.connect_robust(url):
                times.append(time.perf_counter() - began)
        return times

    return asyncio.run(connect())


if __name__ == "__main__":
    main()
