"""The closed form of a mixture against a naive replay, and what a run sees of it."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.core.errors import ConfigError, DataError
from weft.data import shards
from weft.data.config import MixtureConfig
from weft.data.loader import Loader, share
from weft.data.mixed import MixedLoader, era
from weft.data.mixture import Era, Mixture, Point, counted, mirrored, temper
from weft.tokenizer import train


def replay(rows: list[int], eras: list[Era], batch: int, samples: int) -> list[tuple[int, int]]:
    """Source and index of each sample, one after another until all is used up: the plain twin."""
    taken = [0] * len(rows)
    found = []
    for sample in range(samples):
        era = [era for era in eras if era.start <= sample // batch][-1]
        full = [e > 0 and n >= int(r * e) for n, r, e in zip(taken, rows, era.epochs, strict=True)]
        weights = np.where(full, 0.0, stair(era, sample // batch))
        if not weights.any():
            break
        edges = np.rint(np.cumsum(weights) / weights.cumsum()[-1] * 2**32)
        place = int(format(sample % 2**32, "032b")[::-1], 2)
        source = int((place >= edges).sum())
        found.append((source, taken[source]))
        taken[source] += 1
    return found


def stair(era: Era, step: int) -> np.ndarray:
    """The weights at a step: of a linear change those in the middle of its stair."""
    shares = [np.array(point.weights) / sum(point.weights) for point in era.points]
    here = max(i for i, point in enumerate(era.points) if point.step <= step)
    if here == len(shares) - 1 or era.change == "step":
        return shares[here]
    first, length = era.points[here].step, era.points[here + 1].step - era.points[here].step
    stairs = min(256, length)
    number = max(i for i in range(stairs) if first + length * i // stairs <= step)
    way = (number + 0.5) / stairs
    return (1 - way) * shares[here] + way * shares[here + 1]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), batch=st.integers(1, 9), change=st.sampled_from(["linear", "step"]))
def test_assignment_equals_replay(data: st.DataObject, batch: int, change: str) -> None:
    rows = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    weight = st.sampled_from([0.0, 0.1, 0.5, 1.0, 7.0])
    weights = st.lists(weight, min_size=len(rows), max_size=len(rows)).filter(any).map(tuple)
    steps = [0, *sorted(data.draw(st.sets(st.integers(1, 40), max_size=3)))]
    points = tuple(Point(step, data.draw(weights)) for step in steps)
    epochs = tuple(data.draw(st.sampled_from([0.0, 0.5, 1.0, 2.5])) for _ in rows)
    eras = [Era(points, epochs, change)]  # type: ignore[arg-type]
    if data.draw(st.booleans()):
        eras.append(Era((Point(0, data.draw(weights)),), epochs, "step", data.draw(st.integers(1, 30))))
    expected = replay(rows, eras, batch, 60 * batch)
    samples = len(expected)
    try:
        mixture = Mixture(rows, eras, batch)
    except ConfigError:
        assert not expected
        return
    assert mixture.samples == samples if samples < 60 * batch else (mixture.samples or samples) >= samples
    source, index = mixture.assign(np.arange(samples))
    assert list(zip(source.tolist(), index.tolist(), strict=True)) == expected
    late = np.array(sorted({samples * 2 // 3, samples // 2}) if samples else [], np.int64)
    assert [a.tolist() for a in mixture.assign(late)] == [source[late].tolist(), index[late].tolist()]
    totals = Counter(source.tolist())
    for number, (size, most) in enumerate(zip(rows, epochs, strict=True)):
        assert mixture.counts(samples)[number] == totals[number]
        assert not most or totals[number] <= int(size * most)
    if mixture.samples is not None:
        with pytest.raises(DataError, match="used up"):
            mixture.assign(np.array([mixture.samples]))


@settings(max_examples=100, deadline=None)
@given(n=st.integers(0, 3000), bound=st.integers(0, 1 << 32))
def test_counting_has_a_closed_form(n: int, bound: int) -> None:
    plain = int((mirrored(np.arange(n)) < bound).sum())
    assert counted(np.array([n]), np.array([bound])).tolist() == [plain]


def test_any_line_of_samples_holds_each_source_near_its_share() -> None:
    shares = (0.7, 0.25, 0.049, 0.001)
    mixture = Mixture([10] * 4, [Era((Point(0, shares),), (0.0,) * 4)], 64)
    source, _ = mixture.assign(np.arange(1 << 14))
    for length in (64, 1024):
        counts = np.stack([np.bincount(part, minlength=4) for part in source.reshape(-1, length)])
        assert (np.abs(counts - np.array(shares) * length) <= 2).all()
    far = 10**15
    assert np.abs(mixture.counts(far) / far - shares).max() < 1e-9


def test_a_linear_change_runs_from_weight_to_weight() -> None:
    mixture = Mixture([9, 9], [Era((Point(0, (1, 0)), Point(1000, (0, 2))), (0.0, 0.0))], 4)
    assert mixture.weights(0)[0] > 0.99 and mixture.weights(5000).tolist() == [0, 1]
    assert abs(mixture.weights(500)[0] - 0.5) < 0.01
    assert abs(int(mixture.counts(4000)[0]) - 2000) < 10


def test_a_used_up_source_leaves_its_part_to_the_others() -> None:
    mixture = Mixture([10, 100], [Era((Point(0, (1, 1)),), (2.0, 0.0))], 4)
    source, _ = mixture.assign(np.arange(400))
    assert (source == 0).sum() == 20 and (source[60:] == 1).all()
    ended = Mixture([10, 5], [Era((Point(0, (1, 1)),), (2.0, 1.0))], 4)
    assert ended.samples == 25 and ended.steps == 6


def test_a_change_keeps_what_was_counted() -> None:
    before = Era((Point(0, (1.0, 1.0)), Point(100, (3.0, 1.0))), (0.0, 0.0))
    after = Era((Point(0, (0.0, 1.0)),), (0.0, 0.0), "step", start=50)
    old, new = Mixture([10, 10], [before], 8), Mixture([10, 10], [before, after], 8)
    past = np.arange(400)
    for was, now in zip(old.assign(past), new.assign(past), strict=True):
        assert np.array_equal(was, now)
    source, index = new.assign(np.arange(400, 408))
    assert (source == 1).all() and index.tolist() == list(
        range(int(old.counts(400)[1]), int(old.counts(400)[1]) + 8)
    )


def test_temperature_flattens() -> None:
    assert temper((9.0, 1.0), 1.0) == pytest.approx((0.9, 0.1))
    assert temper((9.0, 1.0, 0.0), 2.0) == pytest.approx((0.75, 0.25, 0.0))
    assert era(MixtureConfig(("a = x", "b = y"), temperature=2.0), [900, 100]).points[0].weights == (
        pytest.approx((0.75, 0.25))
    )


@pytest.mark.parametrize(
    "eras",
    [
        [],
        [Era((Point(1, (1.0,)),), (0.0,))],
        [Era((Point(0, (0.0,)),), (0.0,))],
        [Era((Point(0, (-1.0,)),), (0.0,))],
        [Era((Point(0, (1.0, 1.0)),), (0.0,))],
        [Era((Point(0, (1.0,)), Point(0, (1.0,))), (0.0,))],
        [Era((Point(0, (1.0,)),), (float("nan"),))],
        [Era((Point(0, (1.0,)),), (0.0,), start=3)],
        [Era((Point(0, (1.0,)),), (0.01,))],
    ],
)
def test_impossible_mixtures_are_refused(eras: list[Era]) -> None:
    with pytest.raises(ConfigError) as caught:
        Mixture([10], eras, 4)
    assert "\n" not in str(caught.value)


# --- with shards ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def second(make_shards: Callable[[dict[str, list[str]]], Path]) -> Path:
    """A data folder with a second source: Chinese only."""
    return make_shards({"train": ["春眠不觉晓，处处闻啼鸟。\n" * n for n in range(1, 30)]}).parent


def config(first: Path, second: Path, **changes: object) -> MixtureConfig:
    plain = MixtureConfig((f"mixed = {first}", f"zh = {second}"), (0.75, 0.25))
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def test_rows_come_from_their_sources_and_none_twice_an_epoch(shards_folder: Path, second: Path) -> None:
    loader = MixedLoader([(0, config(shards_folder, second))], "train", 64, 8, seed=3)
    steps = 4 * loader.rows // 8
    seen = [bytes(row) for step in range(steps) for row in loader.batch(step).tokens]
    source, _ = loader.mixture.assign(np.arange(steps * 8))
    for number, part in enumerate(loader.loaders):
        mine = [seen[g] for g in np.flatnonzero(source == number)]
        whole = [bytes(row) for batch in part.sequential(1) for row in batch.tokens]
        for first in range(0, len(mine) - part.rows, part.rows):
            assert sorted(mine[first : first + part.rows]) == sorted(whole)
    assert loader.epochs(steps)["zh"] == pytest.approx((source == 1).sum() / loader.loaders[1].rows)
    assert loader.tokens_per_epoch == sum(part.tokens_per_epoch for part in loader.loaders)


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_any_number_of_workers_reads_the_same_batch(shards_folder: Path, second: Path, workers: int) -> None:
    whole = MixedLoader([(0, config(shards_folder, second))], "train", 64, 8, seed=3)
    for step in (0, 77, 10**9):
        batch = whole.batch(step)
        fresh = MixedLoader([(0, config(shards_folder, second))], "train", 64, 8, seed=3, verify=False)
        parts = [share(fresh, step, rank, workers) for rank in range(workers)]
        for name in ("tokens", "targets", "document_start"):
            assert np.array_equal(
                np.concatenate([getattr(part, name) for part in parts]), getattr(batch, name)
            )


def test_one_source_alone_is_the_plain_loader(shards_folder: Path) -> None:
    mixed = MixedLoader([(0, MixtureConfig((f"all = {shards_folder}",)))], "train", 64, 4, seed=5)
    plain = Loader(shards_folder, "train", 64, 4, seed=5)
    for step in (0, 30):
        assert np.array_equal(mixed.batch(step).tokens, plain.batch(step).tokens)


def test_a_part_of_a_folder_by_the_names_of_its_sources(
    shards_folder: Path, texts: dict[str, list[str]]
) -> None:
    loader = Loader(shards_folder, "train", 64, prefix="train/1")
    chosen = [text for number, text in enumerate(texts["train"]) if str(number).startswith("1")]
    assert loader.documents == len(chosen) and loader.bytes == sum(len(text.encode()) for text in chosen)
    whole = Loader(shards_folder, "train", 64)
    assert (
        loader.tokens_per_epoch < whole.tokens_per_epoch and loader.data_fingerprint != whole.data_fingerprint
    )
    with pytest.raises(DataError, match="named like train/"):
        Loader(shards_folder, "train", 64, prefix="else/")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ("only a path", "b = c")}, "is no source"),
        ({"sources": ("a = x", "a = y")}, "names that differ"),
        ({"weights": (), "schedule": ("0: 1",)}, "a weight for each of the 2"),
        ({"weights": (0.0, 0.0)}, "not all of them 0"),
        ({"weights": (), "schedule": ("5: 1, 1",)}, "begin at step 0"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    shards_folder: Path, second: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        MixedLoader([(0, config(shards_folder, second, **changes))], "train", 64)


def test_wrong_keys_are_refused_early() -> None:
    for wrong in ({"temperature": 0.0}, {"weights": (1.0, 1.0)}, {"epochs": (1.0, 2.0)}):
        with pytest.raises(ConfigError, match=r"mixture\."):
            MixtureConfig(("a = x",), **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="give one of them"):
        MixtureConfig(("a = x",), (1.0,), ("0: 1",))


def test_sources_with_different_tokenizers_are_refused(
    shards_folder: Path, second: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "shards"
    shards.write(second, train(iter(["another"]), 384), folder)
    with pytest.raises(ConfigError, match="different tokenizers"):
        MixedLoader([(0, config(shards_folder, folder))], "train", 64)
    with pytest.raises(ConfigError, match="cannot change during a run"):
        other = MixtureConfig((f"a = {folder}",))
        MixedLoader([(0, config(shards_folder, folder)), (5, other)], "train", 64)
