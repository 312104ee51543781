"""What tests with real guests share: their scale, their figures, and whether they run at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sim.guest.served_card import ServedCard
from tests.cosim.summary import Summary


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: by `make cosim FULL=1` alone")
    for plugin in config.pluginmanager.get_plugins():
        if isinstance(plugin, Summary):
            config.stash[_SUMMARY] = plugin


_SUMMARY = pytest.StashKey[Summary]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Guests want packages from the network, root and minutes: they run by `make cosim` alone."""
    guests = [item for item in items if Path(__file__).parent in item.path.parents]
    if _SUMMARY not in config.stash:
        config.hook.pytest_deselected(items=guests)
        items[:] = [item for item in items if item not in guests]
        return
    if not config.stash[_SUMMARY].full:
        longer = [item for item in guests if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=longer)
        items[:] = [item for item in items if item not in longer]
    if os.geteuid():
        for item in guests:
            item.add_marker(pytest.mark.skip(reason="network namespaces need root"))


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether more of everything is to be done: `make cosim FULL=1`."""
    return request.config.stash[_SUMMARY].full


class Figures:
    """Figures of a test, for the summary."""

    def __init__(self, properties: list[tuple[str, Any]]) -> None:
        self._properties = properties

    def add(self, **figures: float | str) -> None:
        """Add figures by name, with the unit in it."""
        for name, value in figures.items():
            self._properties.append(
                (name, float(f"{value:.4g}") if isinstance(value, float) else value))

    @contextmanager
    def measure(self, card: ServedCard) -> Iterator[None]:
        """Add how fast time passed for a card meanwhile, and what took the time."""
        before, simulated = card.spent, card.simulated_s
        yield
        spent = card.spent - before
        self.add(wall_s=spent.wall_s, simulated_s=card.simulated_s - simulated,
                 simulated_s_per_wall_s=(card.simulated_s - simulated) / max(spent.wall_s, 1e-9),
                 card_share_of_cpu=spent.card_cpu_s / max(spent.cpu_s, 1e-9))


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    return Figures(request.node.user_properties)
