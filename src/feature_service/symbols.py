"""The symbols that the service keeps, of which there are only so many places.

Anybody who can publish to a source queue can name any symbol, so the places are given by a segmented LRU (Karedla,
Love and Wherry, "Caching strategies to improve disk system performance", 1994):

* A new symbol is a *newcomer*. When no place is free, it takes that of the newcomer heard least recently.
* With its third trade it becomes *established*. Four fifths of the places are open to established symbols; one more
  established symbol sends the one of them that traded least recently back among the newcomers.

So symbols that come once take places from each other only, however many they are, and a symbol that trades gets its
place from them and keeps it. What happens depends on nothing but the order of the events; every step is O(1).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from feature_service.features import SymbolState

LEAST_SYMBOLS: Final = 2
"""One place for an established symbol, one for newcomers. A single place would go to whatever symbol came last."""

_ESTABLISHED_AFTER: Final = 3


@dataclass(slots=True)
class Symbol:
    """A symbol that has a place.

    Attributes:
        state: all that is known of its market.
        heard_at: when its last event came, in steady time.
        trace_id: of the last event that had one.
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
        """All of them, to go through while places change hands."""
        return [*self._established.items(), *self._newcomers.items()]

    def heard(self, name: str, *, traded: bool) -> Symbol:
        """An event of this symbol came, which was a trade or not. Returns the symbol in its place."""
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
