"""What every test may use: the simulators, the seed, and the marker for virtio's clauses."""

from __future__ import annotations

import os
import random
from collections.abc import Generator

import hypothesis
import pytest

from sim.runner import SIMULATORS, missing, seed_of_the_day

# A test is the same every time, unless a seed is given; and a busy machine is no failure.
hypothesis.settings.register_profile("ringlet", deadline=None, print_blob=True,
                                     derandomize=not os.environ.get("RINGLET_SEED"))
hypothesis.settings.load_profile("ringlet")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "virtio(*clauses): the clauses of the virtio standard that "
                                       "this test shows, by their id in docs/virtio")


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport,
                                                              pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped, where nothing may be: {report.longrepr}"
    return report
