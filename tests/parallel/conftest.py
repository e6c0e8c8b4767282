"""Groups of processes, started once for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.parallel.ranks import Ranks

_HERE = Path(__file__).parent
_GROUPS: list[Ranks] = []
_SIZES = {"two": 2, "four": 4, "eight": 8}


def _ranks(size: int, factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    ranks = Ranks(size, factory.mktemp("ranks"))
    _GROUPS.append(ranks)
    yield ranks
    ranks.close()


def _size(item: pytest.Item) -> int:
    """How many processes a test wants, 0 for none."""
    given = getattr(item, "callspec", None)
    wanted = [_SIZES[name] for name in getattr(item, "fixturenames", ()) if name in _SIZES]
    return max([*wanted, given.params.get("size", 0) if given else 0])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of as many processes come together: groups that wait have threads that go on polling."""
    places = [place for place, item in enumerate(items) if _HERE in item.path.parents]
    for place, item in zip(places, sorted((items[place] for place in places), key=_size), strict=True):
        items[place] = item


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Only one group is there at a time, and the tests of other folders have the machine for themselves."""
    if nextitem is None or _HERE not in nextitem.path.parents or _size(nextitem) != _size(item):
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
