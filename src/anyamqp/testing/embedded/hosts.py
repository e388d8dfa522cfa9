"""The virtual hosts of the embedded broker. No I/O."""

from __future__ import annotations

from collections.abc import Iterator

from anyamqp.testing.embedded.model import Model
from anyamqp.testing.embedded.timers import Timers
from anyamqp.testing.embedded.versions import RULES, Rules


class Hosts:
    """The virtual hosts of a broker, by name.

    Args:
        rules: how the version of RabbitMQ behaves that the broker follows.
        timers: what is to happen later, in all of them.
    """

    def __init__(self, rules: Rules = RULES["3.10"], timers: Timers | None = None) -> None:
        self.rules: Rules = rules
        self.timers: Timers = timers or Timers(lambda: 0.0)
        self._hosts: dict[str, Model] = {}
        self.add("/")

    def get(self, name: str) -> Model | None:
        """The virtual host of that name; None if there is none."""
        return self._hosts.get(name)

    def __getitem__(self, name: str) -> Model:
        return self._hosts[name]

    def __iter__(self) -> Iterator[Model]:
        return iter(list(self._hosts.values()))

    def add(self, name: str) -> Model:
        """Add a virtual host; one that is there stays as it is."""
        if name not in self._hosts:
            self._hosts[name] = Model(name, self.rules, self.timers)
        return self._hosts[name]

    def remove(self, name: str) -> None:
        """Remove a virtual host with all that is in it."""
        del self._hosts[name]
