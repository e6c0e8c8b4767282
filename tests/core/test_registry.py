"""Look-ups suggest the nearest right name."""

from __future__ import annotations

import pytest

from weft.core.errors import UsageError
from weft.core.registry import lookup, nearest


def test_lookup() -> None:
    table = {"adamw": 1, "muon": 2}
    assert lookup(table, "muon", "optimizer") == 2
    with pytest.raises(UsageError, match="There is no optimizer named 'adam'; did you mean 'adamw'"):
        lookup(table, "adam", "optimizer")
    with pytest.raises(UsageError, match="choose one of: adamw, muon"):
        lookup(table, "优化", "optimizer")


def test_nearest() -> None:
    assert nearest("trian", ["train", "test"]) == "train"
    assert nearest("zzz", ["train"]) is None
    assert nearest("", []) is None
    assert nearest("traintrain", ["train"]) == "train"


def test_a_name_of_megabytes_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("difflib.get_close_matches")
    assert nearest("train" * 2**19, ["train", "test"]) is None
