"""A manifest says what was done, so that it is not done again."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft import __version__
from weft.core import manifest
from weft.core.errors import DataError


def write(folder: Path, config: str = "a = 1\n") -> dict[str, object]:
    (folder / "out.bin").write_bytes(b"abc")
    return manifest.write(
        folder, command="data", config=config, inputs={"in": "h"}, figures={"篇": 3}, outputs=("out.bin",)
    )


def test_round_trip(tmp_path: Path) -> None:
    written = write(tmp_path)
    assert manifest.read(tmp_path) == written
    assert written["weft"] == __version__
    assert written["outputs"] == {"out.bin": manifest.hash_file(tmp_path / "out.bin")}


def test_done_only_for_the_same_work(tmp_path: Path) -> None:
    assert manifest.read(tmp_path) is None
    same = {"command": "data", "config": "a = 1\n", "inputs": {"in": "h"}}
    assert not manifest.is_done(tmp_path, **same)
    write(tmp_path)
    assert manifest.is_done(tmp_path, **same)
    for change in ({"command": "train"}, {"config": "a = 2\n"}, {"inputs": {"in": "other"}}, {"inputs": {}}):
        assert not manifest.is_done(tmp_path, **{**same, **change})


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b"{}", b'"text"', b"", b"[" * 100_000])
def test_a_damaged_manifest_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / manifest.NAME).write_bytes(content)
    with pytest.raises(DataError, match="is damaged; delete"):
        manifest.read(tmp_path)
    with pytest.raises(DataError, match="is damaged; delete"):
        manifest.is_done(tmp_path, command="data", config="", inputs={})


def test_a_folder_that_is_a_file_has_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert manifest.read(tmp_path / "file") is None
