"""The symbols that the service keeps, in a limited number of places.

Anybody who can publish to a source queue can name any symbol, so a segmented LRU assigns the places (Karedla, Love and
Wherry, "Caching strategies to improve disk system performance", 1994):

* A new symbol is a *newcomer*. If no place is free, it displaces the newcomer whose last event is oldest.
* With its third trade, a newcomer becomes *established*. At most four fifths of the places are for established symbols;
  when there is one too many, the one whose last trade is oldest becomes a newcomer again.

So symbols that appear once displace only each other, however many there are, and a trading symbol takes a place from
them and keeps it. The result depends only on the order of the events. Every step is O(1).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from feature_service.features import SymbolState

LEAST_SYMBOLS: Final = 2
"""One place for an established symbol and one for newcomers. With a single place, the last symbol would always win."""

_ESTABLISHED_AFTER: Final = 3


@dataclass(slots=True)
class Symbol:
    """A symbol that has a place.

    Attributes:
        state: the state of its market.
        heard_at: when its last event came, in steady time.
        trace_id: the trace id of the last event that had one.
        trades: how many trades it had as a newcomer.
    """

    state: SymbolState = field(default_factory=SymbolState)
    heard_at: float = 0.0
    trace_id: str | None = None
    trades: int = 0


class Symbols:
    """The symbols that have a place, by name.

    Args:
        most: how many places there are; ``LEAST_SYMBOLS`` or more.

    Attributes:
        displaced: how many symbols lost their place to others.
    """

    def __init__(self, most: int) -> None:
        self.displaced = 0
        self._most = most
        self._most_established = most * 4 // 5
        self._newcomers: OrderedDict[str, Symbol] = OrderedDict()
        self._established: OrderedDict[str, Symbol] = OrderedDict()

    def __len__(self) -> int:
        return len(self._newcomers) + len(self._established)

    def __contains__(self, name: str) -> bool:
        return name in self._newcomers or name in self._established

    def items(self) -> list[tuple[str, Symbol]]:
        """A copy of all symbols with their names, so that the caller may remove some while iterating."""
        return [*self._established.items(), *self._newcomers.items()]

    def heard(self, name: str, *, traded: bool) -> Symbol:
        """Record an event of a symbol, which was a trade or not. Returns the symbol, which may be new."""
        if (symbol := self._established.get(name)) is not None:
            if traded:
                self._established.move_to_end(name)
            return symbol
        symbol = self._newcomers.get(name)
        if symbol is None:
            if len(self) >= self._most:
                self._newcomers.popitem(last=False)
                self.displaced += 1
            symbol = self._newcomers[name] = Symbol()
        else:
            self._newcomers.move_to_end(name)
        if traded:
            symbol.trades += 1
            if symbol.trades >= _ESTABLISHED_AFTER:
                self._establish(name)
        return symbol

    def remove(self, name: str) -> None:
        """Free the place of a symbol, if it has one."""
        self._newcomers.pop(name, None)
        self._established.pop(name, None)

    def _establish(self, name: str) -> None:
        self._established[name] = self._newcomers.pop(name)
        if len(self._established) > self._most_established:
            demoted, symbol = self._established.popitem(last=False)
            symbol.trades = 0
            self._newcomers[demoted] = symbol
