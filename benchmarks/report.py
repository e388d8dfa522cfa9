"""The results in words: a page for the docs, and a short table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.cases import (
    CASES,
    CLIENTS,
    FAIRNESS,
    LATENCY,
    PREFETCH,
    QUIET_QUEUES,
    QUIET_RATE,
    RAW,
    TASKS,
    Case,
    Client,
    forms_of_aio_pika,
)
from benchmarks.pages import link_to_raw, write_raw
from benchmarks.picture import draw
from benchmarks.runner import FULL, Result
from benchmarks.summary import Spread, Summary, Verdict

_RAW_CLIENT = next(client for client in CLIENTS if client.name == RAW)
_NAME = "benchmarks"
_PERCENTILES = ("p50", "p99", "p99.9")
_MARKS = {True: "met", False: "missed", None: "-"}
_OURS = [client for client in CLIENTS if client.is_ours]

_METHOD = """\
Every figure is the median of {rounds} rounds, with the least and the most beside it. A run is one case of one client in
a process of its own, on a connection of its own, against a broker that was started for the measurement and does nothing
else. The clients take turns within each case of each round, every round begins with another one, and a tenth of a run's
messages goes ahead of the clock. A ratio is formed within a round, where both runs are seconds apart, and its median
is told.

* **The work is the same for all.** Bodies of 1 KiB, a new message object for each publish, delivery mode 2
  (persistent). `mandatory` is on wherever confirms are. anyamqp runs with its defaults, so it adds a `message_id` to
  what it publishes with confirms.
* **The queue is classic and transient.** On a durable one the broker writes and syncs each persistent message, which
  costs it half of its throughput and makes a single confirm several times slower: the disk would be measured. Each run
  has a queue of its own, which is deleted after it.
* **Nothing is taken on trust.** Publishing without confirms ends with a passive declare on the same channel, consuming
  with basic.cancel, both within the time measured. Then another connection counts: what was published must be in the
  queue, what was acknowledged must be gone. A run that fails this has no figure.
* **Peers are used as their users use them.** aio-pika: `connect_robust`, `consume` with a callback, and a task for each
  publish in the window. pika and py-amqp: callbacks. librabbitmq: a program in C that measures itself; it is left out
  where it cannot be compiled. A client that cannot do a case has a "-" there.
* **The raw socket is close to the limit**: a blocking socket that reads up to 120 KiB at once, bytes that were encoded
  beforehand, deliveries counted frame by frame, one ack frame for those of a read, as anyamqp merges its own. "From 64
  tasks" it has 64 confirms under way.
* **CPU** is the operating system's user and system time of the client's process, over the messages.
* **Remote calls** go one after the other over direct reply-to, to a server in a process of its own that uses the same
  client. Their figure is the median latency: less is better.
* **Bodies of 1 MiB** are published with confirms, 16 under way where the client can, and then consumed with acks. Each
  counts twice, out and in."""


def save(folder: Path, plan: str, facts: Mapping[str, str], results: Sequence[Result], command: str) -> Path:
    """Write page, picture and raw samples.

    Returns:
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary = Summary(results)
    raw = {"plan": plan, "command": command, "machine": dict(facts), "results": [asdict(one) for one in results]}
    write_raw(folder, _NAME, raw)
    draw(summary, folder / f"{_NAME}.svg")
    text = page(summary, facts, command, max(result.round for result in results))
    (folder / f"{_NAME}.md").write_text(text)
    return folder / f"{_NAME}.md"


# --- the page -------------------------------------------------------------------------------------------------------


def page(summary: Summary, facts: Mapping[str, str], command: str, rounds: int) -> str:
    """The whole page."""
    cases = [case for case in CASES if summary.has(case)]
    parts = [
        "# Benchmarks",
        f"Written by `{command}`; the raw samples are in {link_to_raw(_NAME)}.",
        f"![Throughput and latency of each client]({_NAME}.svg)",
    ]
    if cases:
        parts += ["## Beside aio-pika at its best", _leads(summary, cases)]
    if any(case.targets for case in cases):
        parts += ["## Against the targets", _targets(summary, cases)]
    if cases:
        parts += ["## At a glance", _glance(summary, cases), "## Every figure"]
        parts += [f"### {_title(case)}\n\n{_figures(summary, case)}" for case in cases]
    if summary.has(LATENCY):
        parts += ["## Latency at half load", _latency(summary)]
    if summary.has(FAIRNESS):
        parts += ["## Quiet consumers beside a busy one", _fairness(summary)]
    parts += [
        "## How it is measured",
        _METHOD.format(rounds=rounds),
        "## Where",
        table(["", ""], [[name, value] for name, value in facts.items()]),
    ]
    return "\n\n".join(parts) + "\n"


def _title(case: Case) -> str:
    return f"{case.title[0].upper()}{case.title[1:]}"


def _leads(summary: Summary, cases: Sequence[Case]) -> str:
    rows = [
        [case.title, *("-" if lead is None else _range(lead, ".1f") for lead in leads)]
        for case in cases
        if any(leads := [summary.lead(case, client, forms_of_aio_pika(case)) for client in _OURS])
    ]
    return (
        "How many times as fast as aio-pika anyamqp is. Each round compares with the best that aio-pika did in it: on "
        f"asyncio or uvloop, and for confirms also from {TASKS} tasks.\n\n"
        + table(["case", *(client.name for client in _OURS)], rows)
    )


def _targets(summary: Summary, cases: Sequence[Case]) -> str:
    rows = [
        [case.title, f"{first.peer}, {_bound(first)}", *map(_verdict, (first, *others)), _limit(summary, first)]
        for case in cases
        for first, *others in summary.verdicts(case)
    ]
    for case in cases:
        if case.cpu_target is not None:
            figures = [summary.cpu(case, client) for client in _OURS]
            told = (_cpu(one, case.cpu_target) for one in figures)
            rows.append([case.title, f"CPU ≤ {case.cpu_target:g} µs", *told, ""])
    return (
        f"anyamqp's figure over the peer's. The last column has the {RAW}'s over the same peer's: close to the "
        "limit for any client here.\n\n" + table(["case", "target", *(one.name for one in _OURS), RAW], rows)
    )


def _limit(summary: Summary, verdict: Verdict) -> str:
    """What the raw socket has where anyamqp has this."""
    ratio = summary.ratio(verdict.case, _RAW_CLIENT, verdict.peer)
    return "" if ratio is None or verdict.peer == RAW else f"{ratio.median:.2f}"


def _bound(verdict: Verdict) -> str:
    return f"{'≤' if verdict.case.unit == 'µs' else '≥'} {verdict.target:g}"


def _verdict(verdict: Verdict) -> str:
    if verdict.ratio is None:
        return "-"
    return f"{_range(verdict.ratio, '.2f')} {_MARKS[verdict.is_met]}"


def _cpu(spread: Spread | None, target: float) -> str:
    return "-" if spread is None else f"{_range(spread, '.1f')} {_MARKS[spread.median <= target]}"


def _glance(summary: Summary, cases: Sequence[Case]) -> str:
    rows = [[client.name, *(_brief(summary, case, client) for case in cases)] for client in summary.clients()]
    return "Medians; in brackets, µs of the client's CPU time a message.\n\n" + table(
        ["client", *(f"{case.title}, {case.unit}" for case in cases)], rows
    )


def _brief(summary: Summary, case: Case, client: Client) -> str:
    figure, cpu = summary.figure(case, client), summary.cpu(case, client)
    if figure is None or cpu is None:
        return "failed" if summary.error(case, client) else "-"
    return f"{figure.median:,.0f} ({cpu.median:,.0f})"


def _figures(summary: Summary, case: Case) -> str:
    rows: list[list[str]] = []
    for client in CLIENTS:
        figure, cpu, error = summary.figure(case, client), summary.cpu(case, client), summary.error(case, client)
        if figure is not None and cpu is not None:
            note = f"a run failed: {error}" if error else ""
            rows.append([client.name, f"{figure.median:,.0f}", ends(figure, ",.0f"), _range(cpu, ",.1f"), note])
        elif error:
            rows.append([client.name, "-", "", "", f"failed: {error}"])
    return table(["client", case.unit, "least to most", "CPU, µs a message", ""], rows)


def _latency(summary: Summary) -> str:
    rows = [
        [
            client.name,
            *(
                _value(summary.latency(LATENCY, client, what, percentile))
                for what in ("confirm", "end to end")
                for percentile in _PERCENTILES
            ),
        ]
        for client in summary.clients()
        if "latency" in client.cases
    ]
    return (
        f"{FULL.rate:,.0f} messages a second, about half of what aio-pika can publish with confirms and consume with "
        "acks in one process, by one publisher and one consumer on two connections of that process. µs from the call "
        "that publishes to the confirm, and to the consumer's code; "
        "medians over the rounds.\n\n"
        + table(
            [
                "client",
                *(f"confirm {percentile}" for percentile in _PERCENTILES),
                *(f"end to end {percentile}" for percentile in _PERCENTILES),
            ],
            rows,
        )
    )


def _fairness(summary: Summary) -> str:
    rows = [
        [
            client.name,
            *(
                _value(summary.latency(FAIRNESS, client, what, percentile))
                for what in ("alone", "beside")
                for percentile in _PERCENTILES
            ),
            _value(summary.figure(FAIRNESS, client)),
            _value(summary.latency(FAIRNESS, client, "loop late", "p99")),
            _value(summary.latency(FAIRNESS, client, "loop late", "max")),
        ]
        for client in summary.clients()
        if client.is_ours
    ]
    return (
        f"{QUIET_QUEUES} consumers of one connection get {QUIET_RATE:g} messages a second each, from another process: "
        f"first alone, then beside a consumer of the same connection that empties a full queue (ack each, prefetch "
        f"{PREFETCH}). µs from publishing to the quiet consumer's code. How late the event loop is, is what a "
        "heartbeat's timer would see; a loop that stalls for a quarter of the heartbeat interval fails the run.\n\n"
        + table(
            [
                "client",
                *(f"alone {percentile}" for percentile in _PERCENTILES),
                *(f"beside {percentile}" for percentile in _PERCENTILES),
                "busy one, msg/s",
                "loop late p99",
                "loop late max",
            ],
            rows,
        )
    )


def _value(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.median:,.0f}"


def ends(spread: Spread, form: str) -> str:
    """The least and the most."""
    return f"{spread.low:{form}} to {spread.high:{form}}"


def _range(spread: Spread, form: str) -> str:
    return f"{spread.median:{form}} ({ends(spread, form)})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


# --- the terminal ---------------------------------------------------------------------------------------------------


def terminal(summary: Summary) -> str:
    """What a reader at a terminal wants to know."""
    cases = [case for case in CASES if summary.has(case)]
    parts: list[str] = []
    if cases:
        head = ["", *(f"{case.name} {case.unit}" for case in cases)]
        rows = [[client.name, *(_brief(summary, case, client) for case in cases)] for client in summary.clients()]
        parts.append("Medians (µs of CPU a message)\n" + _columns([head, *rows]))
        rows = [
            [case.name, f"{first.peer} {_bound(first)}", *map(_short_verdict, (first, *others)), _limit(summary, first)]
            for case in cases
            for first, *others in summary.verdicts(case)
        ]
        head = ["", "target", *(client.name for client in _OURS), RAW]
        parts.append("Ratios to the peers\n" + _columns([head, *rows]))
        rows = [
            [case.name, *(_times(summary.lead(case, client, forms_of_aio_pika(case))) for client in _OURS)]
            for case in cases
        ]
        parts.append(
            "Times as fast as aio-pika at its best\n" + _columns([["", *(client.name for client in _OURS)], *rows])
        )
    for case, whats in ((LATENCY, ("confirm", "end to end")), (FAIRNESS, ("alone", "beside", "loop late"))):
        if summary.has(case):
            parts.append(f"{case.title[0].upper()}{case.title[1:]}, µs\n" + _latencies(summary, case, whats))
    return "\n\n".join(parts)


def _short_verdict(verdict: Verdict) -> str:
    return "-" if verdict.ratio is None else f"{verdict.ratio.median:.2f} {_MARKS[verdict.is_met]}"


def _times(lead: Spread | None) -> str:
    return "-" if lead is None else f"{lead.median:.1f}"


def _latencies(summary: Summary, case: Case, whats: Sequence[str]) -> str:
    head = ["", *(f"{what} {percentile}" for what in whats for percentile in _PERCENTILES)]
    rows = [
        [
            client.name,
            *(_value(summary.latency(case, client, what, percentile)) for what in whats for percentile in _PERCENTILES),
        ]
        for client in summary.clients()
        if case.name in client.cases
    ]
    return _columns([head, *rows])


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
