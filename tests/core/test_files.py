"""Files are whole or absent, and disk errors are one sentence."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from weft.core.errors import ResourceError
from weft.core.files import atomic_directory, disk_errors, hash_file, write_bytes_atomic, write_text_atomic


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_writes_make_folders_replace_and_leave_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b.txt"
    write_text_atomic(file, "今天")
    write_text_atomic(file, "明天")
    assert file.read_text(encoding="utf-8") == "明天"
    assert names(file.parent) == ["b.txt"]


def test_a_failed_write_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.bin"
    write_bytes_atomic(file, b"old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="no disk space left"):
        write_bytes_atomic(file, b"new")
    assert file.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG])
def test_disk_errors_become_one_sentence(code: int) -> None:
    with pytest.raises(ResourceError, match=r"Could not write x: .*\.$"), disk_errors(Path("x")):
        raise OSError(code, "technical")


def test_other_errors_pass() -> None:
    with pytest.raises(OSError, match="technical"), disk_errors(Path("x")):
        raise OSError(errno.EIO, "technical")


def test_a_file_where_a_folder_must_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResourceError, match="folder"):
        write_bytes_atomic(tmp_path / "file" / "inside", b"x")
    (tmp_path / "taken").mkdir()
    with pytest.raises(ResourceError, match="taken"):
        write_bytes_atomic(tmp_path / "taken", b"x")


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_directory(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert names(target) == ["a"]
    with atomic_directory(target) as folder:
        (folder / "b").write_text("2")
        assert names(target) == ["a"]
    assert names(target) == ["b"]
    assert names(tmp_path) == ["out"]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_directory(target) as folder:
        (folder / "a").write_text("1")
    with pytest.raises(KeyboardInterrupt), atomic_directory(target) as folder:
        (folder / "b").write_text("2")
        raise KeyboardInterrupt
    assert names(target) == ["a"]
    assert names(tmp_path) == ["out"]


def test_leftovers_of_a_killed_run_go(tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "old").write_text("x")
    with atomic_directory(tmp_path / "out") as folder:
        (folder / "new").write_text("y")
    assert names(tmp_path / "out") == ["new"]


def test_hash(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert hash_file(tmp_path / "a").startswith("ba7816bf")
