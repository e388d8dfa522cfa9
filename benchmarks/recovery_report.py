"""The page about recovery, and its picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypeAlias

from benchmarks.pages import link_to_raw, write_raw
from benchmarks.recovery_worker import EXCHANGE, PAUSE
from benchmarks.report import ends, table
from benchmarks.summary import Spread, spread

matplotlib = import_module("matplotlib")  # half of it has no types; imported by name, it is Any and not unknown

Results: TypeAlias = Sequence[Mapping[str, Any]]

_NAME: Final = "recovery"
_STYLE: Final = {"svg.hashsalt": "anyamqp", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 8}
_COLOURS: Final = {"anyamqp": "#1f6f8b", "anyamqp on trio": "#7fb7c9", "aio-pika": "#d98c5f"}
_OTHER: Final = "#e8c4a8"

_METHOD: Final = f"""\
A client in a process of its own is connected through the fault proxy of `anyamqp.testing`, which runs in another
process, to a broker that was started for the measurement. The proxy resets the connection on both sides when
it is {{lived}} s old; then the clock starts. Each figure is the median of {{rounds}} rounds, with the least and the
most beside it. The clients take turns, and each round begins with another one.

* **An entity** is a queue or its binding, half of each: classic, transient, neither exclusive nor auto-delete, bound to
  `{EXCHANGE}`. They stay in the broker while the client is away, so that the broker only has to look them up; they end
  with the broker after the last round. The client has declared each of them on the connection that is lost.
* **All back**: the client reports it, anyamqp with the state OPEN, aio-pika with its `reconnect_callbacks`.
* **First new confirm**: the caller publishes right after the reset. anyamqp's call waits for the recovery by itself.
  aio-pika's call raises if the loss catches it; the caller then waits {PAUSE:g} s, waits for `channel.ready()` and
  publishes again, which its documentation leaves to the caller. The {PAUSE:g} s are part of its figure.
* **Unconfirmed**: the proxy holds everything back, the client publishes 10,000 messages with bodies of 64 bytes, then
  the connection is reset. anyamqp sends them again by itself, in order, before the new one. With aio-pika each of the
  10,000 calls raises, and its caller goes on as above. A figure counts only if the queue holds them all afterwards.
* **The first wait.** anyamqp dials after a random wait of up to 0.1 s if the link has worked or has lived for a second
  (`ReconnectPolicy`).
  aio-pika 10.2 dials at once if the last connect was `reconnect_interval` ago, 5 s by default, and otherwise waits for
  the rest of it: a connection that is lost again within 5 s comes back later than shown here. "Interval 0" is the
  smallest.
* **CPU** is user and system time of the client's process, from the reset to the last confirm."""


def save(folder: Path, kept: Mapping[str, Any]) -> Path:
    """Write page, picture and raw samples.

    Returns:
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_raw(folder, _NAME, kept)
    _draw(kept["results"], folder / f"{_NAME}.svg")
    (folder / f"{_NAME}.md").write_text(page(kept))
    return folder / f"{_NAME}.md"


def page(kept: Mapping[str, Any]) -> str:
    """The whole page."""
    results: Results = kept["results"]
    counts = sorted({one["entities"] for one in results if not one["unconfirmed"]})
    parts = [
        "# Recovery time",
        f"Written by `{kept['command']}`; the raw samples are in {link_to_raw(_NAME)}.",
        "Two losses: a connection that is reset while the broker runs on, and a broker that is killed and restarted.",
        f"![Seconds from the reset to the first new confirm]({_NAME}.svg)",
        "## From the reset to the first new confirm, in seconds",
        table(["", *(f"{count:,} entities" for count in counts)], _by_entities(results, counts, _new)),
        "## From the reset until everything is back, in seconds",
        table(["", *(f"{count:,} entities" for count in counts)], _by_entities(results, counts, _recovered)),
        "## CPU time of the client, in seconds",
        table(["", *(f"{count:,} entities" for count in counts)], _by_entities(results, counts, _cpu)),
        "## With 10,000 unconfirmed messages, in seconds",
        table(["", "first new confirm", "all 10,000 confirmed", "CPU", "calls that raised"], _unconfirmed(results)),
    ]
    if restarts := kept.get("restarts"):
        parts += _restarts(restarts)
    if failed := [one for one in results if one["error"]]:
        parts += ["## Failures", table(["", "case", "round", "error"], _failures(failed))]
    parts += [
        "## How it is measured",
        _METHOD.format(rounds=max(one["round"] for one in results), lived=kept["lived"]),
        "## Where",
        table(["", ""], [[name, value] for name, value in kept["machine"].items()]),
    ]
    return "\n\n".join(parts) + "\n"


_RESTARTS: Final = """\
Written by `{command}`.

The broker is killed (SIGKILL) and started again at once, {rounds} times, each time with all clients connected to it,
with 10 entities each, in processes of their own. The clock starts when its port answers a protocol header with
connection.start, {down:.1f} s after the kill in the median; it stops at the confirm of a publish that was called right
after the kill, as above. A client does not learn that the broker is back, so the figure is mostly the rest of the wait
between two attempts: anyamqp's grows to between 2.5 and 5 s (`ReconnectPolicy`), aio-pika's is its
`reconnect_interval` of 5 s. So it depends on how long the broker was away: after more than some ten seconds, the next
attempt of anyamqp comes 1.9 s after the broker in the median, by calculation."""


def _restarts(kept: Mapping[str, Any]) -> list[str]:
    results: Results = kept["results"]
    rows: list[list[str]] = []
    for client in _clients(results):
        mine = [one for one in results if one["client"] == client]
        figure = _figure(mine, _new)
        failed = sum(1 for one in mine if one["error"])
        told = ["-"] * 3 if figure is None else [f"{one:.2f}" for one in (figure.median, figure.low, figure.high)]
        rows.append([client, *told, str(failed)])
    down = _figure(results, lambda one: float(one["down"]))
    text = _RESTARTS.format(
        command=kept["command"],
        rounds=max(one["round"] for one in results),
        down=0.0 if down is None else down.median,
    )
    return [
        "## From the broker being ready after a restart to the first new confirm, in seconds",
        text,
        table(["", "median", "best", "worst", "failed"], rows),
    ]


def _new(result: Mapping[str, Any]) -> float:
    return float(result["new"])


def _recovered(result: Mapping[str, Any]) -> float:
    return float(result["recovered"])


def _old(result: Mapping[str, Any]) -> float:
    return float(result["old"])


def _cpu(result: Mapping[str, Any]) -> float:
    return float(result["cpu"])


def _by_entities(
    results: Results, counts: Sequence[int], value: Callable[[Mapping[str, Any]], float]
) -> list[list[str]]:
    return [
        [client, *(_told(_figure(_of(results, client, entities=count), value)) for count in counts)]
        for client in _clients(results)
    ]


def _unconfirmed(results: Results) -> list[list[str]]:
    rows: list[list[str]] = []
    for client in _clients(results):
        mine = [one for one in results if one["unconfirmed"] and one["client"] == client]
        raised = max((one["raised"] for one in mine), default=0)
        rows.append([client, *(_told(_figure(mine, value)) for value in (_new, _old, _cpu)), f"{raised:,}"])
    return rows


def _failures(failed: Results) -> list[list[str]]:
    return [[one["client"], _case(one), str(one["round"]), one["error"]] for one in failed]


def _case(result: Mapping[str, Any]) -> str:
    if result["unconfirmed"]:
        return f"{result['unconfirmed']:,} unconfirmed"
    return f"{result['entities']:,} entities"


def _clients(results: Results) -> list[str]:
    return sorted({one["client"] for one in results}, key=lambda name: (not name.startswith("anyamqp"), name))


def _of(results: Results, client: str, *, entities: int) -> list[Mapping[str, Any]]:
    return [
        one for one in results if one["client"] == client and one["entities"] == entities and not one["unconfirmed"]
    ]


def _figure(results: Results, value: Callable[[Mapping[str, Any]], float]) -> Spread | None:
    values = [value(one) for one in results if not one["error"]]
    return spread(values) if values else None


def _told(figure: Spread | None) -> str:
    return "-" if figure is None else f"{figure.median:.3f} ({ends(figure, '.3f')})"


# --- the picture ----------------------------------------------------------------------------------------------------


def _draw(results: Results, path: Path) -> None:
    counts = sorted({one["entities"] for one in results if not one["unconfirmed"]})
    with matplotlib.rc_context(_STYLE):
        # Figure itself, not pyplot: it would look for a screen.
        figure = import_module("matplotlib.figure").Figure(figsize=(10, 3), layout="constrained")
        lines, bars = figure.subplots(1, 2)
        clients = _clients(results)
        for client in clients:
            medians = [(count, _figure(_of(results, client, entities=count), _new)) for count in counts]
            known = [(count, one.median) for count, one in medians if one is not None]
            lines.plot(*zip(*known, strict=True), marker="o", label=client, color=_COLOURS.get(client, _OTHER))
        lines.set(xscale="log", yscale="log", xlabel="entities")
        lines.set_title("reset to first new confirm (s, less is better)", loc="left", fontsize=9)
        lines.legend(frameon=False)
        for row, client in enumerate(clients):
            mine = [one for one in results if one["unconfirmed"] and one["client"] == client]
            if (old := _figure(mine, _old)) is not None:
                bars.barh(row, old.median, color=_COLOURS.get(client, _OTHER))
        bars.set_yticks(range(len(clients)), clients)
        bars.invert_yaxis()
        bars.set_title("reset to the last confirm of 10,000 unconfirmed (s, less is better)", loc="left", fontsize=9)
        for axes in (lines, bars):
            axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, format="svg", metadata={"Date": None})
