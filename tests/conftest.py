"""What every test may use: the simulators, the seed, and the marker for virtio's clauses."""

from __future__ import annotations

import os
import random
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

from sim.runner import SIMULATORS, missing, seed_of_the_day
from tests.ledger import Ledger, clauses

# A test is the same every time, unless a seed is given; and a busy machine is no failure.
hypothesis.settings.register_profile("ringlet", deadline=None, print_blob=True,
                                     derandomize=not os.environ.get("RINGLET_SEED"))
hypothesis.settings.load_profile("ringlet")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "virtio(*clauses): the clauses of the virtio standard that "
                                       "this test shows, by their id in docs/virtio")
    try:
        seed_of_the_day()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    folder = config.getoption("--ledger")
    if folder and not hasattr(config, "workerinput"):  # workers report to the process with this
        config.pluginmanager.register(Ledger(Path(folder)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Hand each test's clauses on in its reports; a clause that does not exist is an error."""
    known = clauses()
    for item in items:
        for mark in item.iter_markers("virtio"):
            for clause in mark.args:
                if clause not in known:
                    raise pytest.UsageError(f"{item.nodeid}: docs/virtio has no clause {clause}")
                item.user_properties.append(("virtio", clause))


def pytest_report_header() -> str:
    return f"seed: {seed_of_the_day()} (another: make test SEED=n)"


@pytest.fixture
def seed() -> int:
    """Give the seed of this run, the same every time unless `make test SEED=n` names one."""
    return seed_of_the_day()


@pytest.fixture(autouse=True)
def _seeded(seed: int) -> None:
    random.seed(seed)


@pytest.fixture(params=SIMULATORS)
def simulator(request: pytest.FixtureRequest) -> str:
    """Run the test on each simulator; one that is not installed is skipped, in one line."""
    name = str(request.param)
    if reason := missing(name):
        pytest.skip(reason)
    return name


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true",
                     help="count a skipped test as a failure: where everything is installed")
    parser.addoption("--ledger", metavar="FOLDER",
                     help="leave the ledger of virtio's clauses in this folder")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport,
                                                              pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped, where nothing may be: {report.longrepr}"
    return report
