"""From what the processes measured to what the tables say: medians, spreads, ratios."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.cases import CLIENTS, MIB, Case, Client
from benchmarks.runner import Result


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds, and the least and the most of them."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """A ratio of anyamqp to a peer beside what it is meant to be."""

    case: Case
    ours: Client
    peer: str
    target: float
    ratio: Spread | None

    @property
    def is_met(self) -> bool | None:
        """None if there is nothing to compare."""
        if self.ratio is None:
            return None
        return self.ratio.median <= self.target if self.case.unit == "µs" else self.ratio.median >= self.target


class Summary:
    """All results of one measurement."""

    def __init__(self, results: Iterable[Result]) -> None:
        self._results: dict[tuple[str, str], list[Result]] = {}
        for result in results:
            self._results.setdefault((result.case, result.client), []).append(result)

    def has(self, case: Case) -> bool:
        """Whether anybody was measured in it."""
        return any(name == case.name for name, _ in self._results)

    def clients(self) -> list[Client]:
        """Those that were measured."""
        return [client for client in CLIENTS if any(name == client.name for _, name in self._results)]

    def error(self, case: Case, client: Client) -> str:
        """Why a client has no figure, or not as many as there were rounds."""
        return next((result.error for result in self._of(case, client) if result.error), "")

    def figure(self, case: Case, client: Client) -> Spread | None:
        """The case's figure, in its unit."""
        return self._spread(case, client, lambda result: figure(case, result))

    def cpu(self, case: Case, client: Client) -> Spread | None:
        """µs of CPU time a message."""
        return self._spread(case, client, lambda result: result.cpu / result.messages * 1e6)

    def latency(self, case: Case, client: Client, what: str, percentile: str) -> Spread | None:
        """A percentile of a latency, in µs."""
        return self._spread(case, client, lambda result: result.latencies[what][percentile])

    def ratio(self, case: Case, ours: Client, peer: str) -> Spread | None:
        """Anyamqp's figure over the peer's, formed round by round: their runs in one round are seconds apart."""
        theirs = {result.round: figure(case, result) for result in self._good((case.name, peer))}
        ratios = [
            figure(case, result) / theirs[result.round]
            for result in self._good((case.name, ours.name))
            if result.round in theirs
        ]
        return spread(ratios) if ratios else None

    def lead(self, case: Case, ours: Client, others: Sequence[tuple[Case, Client]]) -> Spread | None:
        """How many times as fast as the fastest of some others anyamqp is; formed round by round, as :meth:`ratio`."""
        best: dict[int, float] = {}
        for other_case, other in others:
            for result in self._good((other_case.name, other.name)):
                best[result.round] = max(best.get(result.round, 0.0), _speed(other_case, result))
        leads = [
            _speed(case, result) / best[result.round]
            for result in self._good((case.name, ours.name))
            if result.round in best
        ]
        return spread(leads) if leads else None

    def verdicts(self, case: Case, clients: Sequence[Client] = CLIENTS) -> list[list[Verdict]]:
        """For each peer with a target, one verdict for each event loop of ours."""
        return [
            [Verdict(case, ours, peer, target, self.ratio(case, ours, peer)) for ours in clients if ours.is_ours]
            for peer, target in case.targets.items()
        ]

    def _spread(self, case: Case, client: Client, value: Callable[[Result], float]) -> Spread | None:
        values = [value(result) for result in self._good((case.name, client.name))]
        return spread(values) if values else None

    def _of(self, case: Case, client: Client) -> list[Result]:
        return self._results.get((case.name, client.name), [])

    def _good(self, key: tuple[str, str]) -> list[Result]:
        return [result for result in self._results.get(key, []) if not result.error]


def figure(case: Case, result: Result) -> float:
    """What a run amounts to, in the unit of its case."""
    if case.unit == "µs":
        return result.latencies["call"]["p50"]
    speed = result.messages / result.seconds
    # Each body goes out and comes back.
    return speed * 2 * case.size / MIB if case.unit == "MiB/s" else speed


def _speed(case: Case, result: Result) -> float:
    """The figure where more is better, and its reciprocal where less is."""
    return 1 / figure(case, result) if case.unit == "µs" else figure(case, result)


def spread(values: Sequence[float]) -> Spread:
    """Median, least and most."""
    return Spread(median(values), min(values), max(values))
