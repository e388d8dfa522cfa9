"""The demo's output: a live view in a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, Protocol

import anyio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from anyamqp import State, Transition, TransitionStream
from feature_service.demo_cast import Account, Cast, DemoOptions

_STYLES: Final = {
    State.CONNECTING: "yellow",
    State.OPEN: "bold green",
    State.BLOCKED: "bold magenta",
    State.RECONNECTING: "bold yellow",
    State.CLOSING: "cyan",
    State.CLOSED: "dim",
}
_REFRESH: Final = 0.1


class View(Protocol):
    """Shows the demo."""

    def act(self, name: str) -> None:
        """A new act begins."""
        ...

    def conclude(self, account: Account) -> None:
        """The demo is over: show the account."""
        ...


@asynccontextmanager
async def choose_view(cast: Cast, options: DemoOptions, seed: int) -> AsyncGenerator[View, None]:
    """The live view if it is enabled and there is a terminal, else plain lines."""
    console = Console()
    began = anyio.current_time()
    view = (
        LiveView(cast, console, began, options.duration, seed)
        if options.live and console.is_terminal
        else PlainView(cast, console, began, seed)
    )
    async with anyio.create_task_group() as tasks:
        for name, connection in cast.connections.items():
            tasks.start_soon(_follow, view, name, connection.transitions())
        tasks.start_soon(view.run)
        try:
            yield view
        finally:
            tasks.cancel_scope.cancel()


async def _follow(view: PlainView | LiveView, name: str, transitions: TransitionStream) -> None:
    async for transition in transitions:
        if transition.machine == "connection":
            view.transition(name, transition)


def _totals(cast: Cast) -> dict[str, int]:
    return {
        "accepted": cast.outbox.accepted,
        "confirmed": cast.outbox.confirmed,
        "delivered": len(cast.model.seen),
        "duplicates": cast.model.duplicates,
        "buffered": len(cast.outbox),
        "refused": cast.outbox.refused,
        "reconnects": sum(connection.stats.reconnects for connection in cast.connections.values()),
    }


def _conclude(console: Console, cast: Cast, account: Account, seed: int) -> None:
    table = Table(title="Account", title_justify="left", box=None, padding=(0, 2), show_header=False)
    for what, found, is_right in account.lines():
        table.add_row(Text("ok", "bold green") if is_right else Text("WRONG", "bold red"), what, found)
    console.print()
    console.print(table)
    faults = ", ".join(f"{name} x{count}" for name, count in sorted(cast.schedule.happened.items()))
    console.print(f"\n{sum(cast.schedule.happened.values())} faults: {faults}.", highlight=False)
    console.print(
        f"{account.reconnects} reconnects; {account.duplicates} duplicates, told by their message ids; "
        f"{account.refused} vectors refused.",
        highlight=False,
    )
    verdict = "Nothing lost." if account.adds_up else "The account does not add up."
    console.print(Text(f"{verdict} Seed {seed}.", "bold green" if account.adds_up else "bold red"))


class PlainView:
    """Prints a line for each event, and a line of totals each second."""

    def __init__(self, cast: Cast, console: Console, began: float, seed: int) -> None:
        self._cast = cast
        self._console = console
        self._began = began
        self._seed = seed
        self._fault: str | None = None
        self._say(f"{cast.stage.name}, seed {seed}")

    def act(self, name: str) -> None:
        self._say(f"--- {name}")

    def conclude(self, account: Account) -> None:
        _conclude(self._console, self._cast, account, self._seed)

    def transition(self, name: str, transition: Transition) -> None:
        """A connection changed its state."""
        why = f": {transition.reason}" if transition.reason else ""
        self._say(f"{name:<10} {transition.source.name} -> {transition.target.name}{why}")

    async def run(self) -> None:
        """Print faults and totals until cancelled."""
        turns = 0
        while True:
            present = self._cast.schedule.present
            if present is not None and present != self._fault:
                self._say(f"*** {present}")
            self._fault = present
            turns += 1
            if turns % 10 == 0:
                self._say("    " + ", ".join(f"{value} {name}" for name, value in _totals(self._cast).items()))
            await anyio.sleep(_REFRESH)

    def _say(self, text: str) -> None:
        self._console.print(f"{anyio.current_time() - self._began:6.1f} s  {text}", soft_wrap=True, highlight=False)


class LiveView:
    """Shows the whole demo on one screen."""

    def __init__(self, cast: Cast, console: Console, began: float, duration: float, seed: int) -> None:
        self._cast = cast
        self._console = console
        self._began = began
        self._duration = duration
        self._seed = seed
        self._act = ""
        self._faults_began: float | None = None
        self._transitions: deque[tuple[float, str, Transition]] = deque(maxlen=64)

    def act(self, name: str) -> None:
        self._act = name
        if name == "faults":
            self._faults_began = anyio.current_time()

    def conclude(self, account: Account) -> None:
        _conclude(self._console, self._cast, account, self._seed)

    def transition(self, name: str, transition: Transition) -> None:
        """A connection changed its state."""
        self._transitions.append((transition.at - self._began, name, transition))

    async def run(self) -> None:
        """Draw the screen ten times a second, until cancelled."""
        with Live(self._screen(), console=self._console, auto_refresh=False, transient=False) as live:
            try:
                while True:
                    live.update(self._screen(), refresh=True)
                    await anyio.sleep(_REFRESH)
            finally:
                live.update(self._screen(), refresh=True)

    def _screen(self) -> RenderableType:
        rows = max(3, self._console.height - 19)
        return Group(self._head(), self._connections(), self._numbers(), self._log(rows))

    def _head(self) -> RenderableType:
        present = self._cast.schedule.present
        what = Text(f" {present} ", "bold white on red") if present else Text(self._act, "bold")
        elapsed = 0.0 if self._faults_began is None else anyio.current_time() - self._faults_began
        grid = Table.grid(expand=True, padding=(0, 2))
        grid.add_column(ratio=1)
        grid.add_column(width=24)
        grid.add_column(width=12, justify="right")
        grid.add_row(
            what,
            ProgressBar(total=self._duration, completed=min(elapsed, self._duration), width=24),
            f"{anyio.current_time() - self._began:.1f} s",
        )
        return Panel(grid, title=f"anyamqp: {self._cast.stage.name}", title_align="left", border_style="dim")

    def _connections(self) -> RenderableType:
        table = Table(expand=True, box=None, padding=(0, 1))
        for header in ("connection", "state", "link", "channels", "unconfirmed"):
            table.add_column(header, no_wrap=True)
        table.add_column("last error", ratio=1, no_wrap=True, overflow="ellipsis")
        for name, connection in self._cast.connections.items():
            stats = connection.stats
            table.add_row(
                name,
                Text(f"{stats.state.name:<12}", _STYLES[stats.state]),
                str(stats.link_number),
                str(stats.open_channels),
                str(stats.unconfirmed),
                Text("" if stats.last_error is None else str(stats.last_error), "dim"),
            )
        return table

    def _numbers(self) -> RenderableType:
        grid = Table.grid(expand=True)
        totals = _totals(self._cast)
        for _ in totals:
            grid.add_column(justify="center", ratio=1, no_wrap=True)
        grid.add_row(*(Text(str(value), "bold") for value in totals.values()))
        grid.add_row(*(Text(name, "dim") for name in totals))
        return Panel(grid, title="vectors", title_align="left", border_style="dim")

    def _log(self, rows: int) -> RenderableType:
        lines = Text(no_wrap=True, overflow="ellipsis")
        for at, name, transition in list(self._transitions)[-rows:]:
            target = transition.target
            style = _STYLES[target] if isinstance(target, State) else ""
            lines.append(f"{at:6.1f} s  {name:<10} ", "dim")
            lines.append(f"{target.name:<12}", style)
            lines.append(f" {transition.reason or transition.event.value}\n", "dim")
        return Panel(lines, title="transitions", title_align="left", border_style="dim", height=rows + 2)
