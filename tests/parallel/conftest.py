"""Groups of processes, started once for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.parallel.ranks import Ranks

_HERE = Path(__file__).parent
_GROUPS: list[Ranks] = []


def _ranks(size: int, factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    ranks = Ranks(size, factory.mktemp("ranks"))
    _GROUPS.append(ranks)
    yield ranks
    ranks.close()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The tests of other folders have the machine for themselves."""
    if nextitem is None or _HERE not in nextitem.path.parents:
        for ranks in _GROUPS:
            ranks.close()


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Two gloo processes."""
    yield from _ranks(2, tmp_path_factory)


@pytest.fixture(scope="session")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Four gloo processes."""
    yield from _ranks(4, tmp_path_factory)


@pytest.fixture(scope="session")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Eight gloo processes."""
    yield from _ranks(8, tmp_path_factory)
