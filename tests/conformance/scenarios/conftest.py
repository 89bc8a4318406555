"""Runs each scenario on each adapter that it applies to, and notes its cell of the table."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from understudy.testing.brokers import ActiveMQ
from understudy.testing.scenarios import Driver, Scene
from understudy.testing.scenarios.drivers import DRIVERS
from understudy.testing.scenarios.places import ActivePlace, Place, RabbitPlace
from understudy.testing.scenarios.table import NOT_APPLICABLE


def scenario_ids(node: pytest.Item | pytest.Function) -> tuple[str, ...]:
    return tuple(i for mark in node.iter_markers("scenario") for i in mark.args)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each driver; a pair with a reason in the table is not made."""
    if "driver" not in metafunc.fixturenames:
        return
    ids = [i for mark in metafunc.definition.iter_markers("scenario") for i in mark.args]
    assert ids, f"{metafunc.definition.name} names no scenario"
    fitting = [driver for driver in DRIVERS if (ids[0], driver.name) not in NOT_APPLICABLE]
    for scenario in ids:  # else the reason against one would keep the others from running
        also = [driver for driver in DRIVERS if (scenario, driver.name) not in NOT_APPLICABLE]
        assert also == fitting, f"{metafunc.definition.name}: {scenario} needs a test of its own"
    metafunc.parametrize("driver", fitting, ids=lambda driver: driver.name)


@pytest.fixture(autouse=True)
def _noted(request: pytest.FixtureRequest) -> None:
    """Tell the table, which the run ends with, which cell this test is."""
    callspec = getattr(request.node, "callspec", None)
    driver: Driver | None = callspec.params.get("driver") if callspec else None
    column = driver.name if driver else "core"
    request.node.user_properties.append(("cell", (*scenario_ids(request.node), column)))


@pytest.fixture(scope="session")
def activemq_b() -> Iterator[ActiveMQ]:
    """A second one, independent of the first."""
    with ActiveMQ(name="activemq-b") as server:
        yield server


def place_at(driver: Driver, request: pytest.FixtureRequest, *names: str) -> Place:
    activemq, rabbit = names
    if driver.broker == "activemq":
        return ActivePlace(request.getfixturevalue(activemq))
    return RabbitPlace(request.getfixturevalue(rabbit), driver.protocol)


@pytest.fixture
def place(driver: Driver, request: pytest.FixtureRequest) -> Place:
    """The broker of the column, shared by all tests."""
    return place_at(driver, request, "activemq", "rabbit_a")


@pytest.fixture
def other_place(driver: Driver, request: pytest.FixtureRequest) -> Place:
    """A broker of the same kind that knows nothing of the first."""
    return place_at(driver, request, "activemq_b", "rabbit_b")


@pytest.fixture
def scene(driver: Driver, place: Place, unique: str) -> Iterator[Scene]:
    place.declare(unique)
    with Scene(driver, place, unique) as scene:
        yield scene
