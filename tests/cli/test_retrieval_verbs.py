"""``weft index``, ``weft search`` and ``weft ask`` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from weft.cli.main import main


def weft(*arguments: str | Path | int) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_index_search_and_ask(tmp_path: Path) -> None:
    notes, out = tmp_path / "notes", tmp_path / "out"
    notes.mkdir()
    (notes / "tower.txt").write_text("The tower is 330 metres tall. It is made of iron.")
    (notes / "北京.md").write_text("# 北京市\n\n北京是中国的首都。人口超过两千万。")
    (notes / "photo.jpg").write_bytes(b"x")
    done = weft("index", notes, "--out", out, "--json", tmp_path / "r.json")
    assert done.exit_code == 0, done.output
    assert "2 documents, 2 passages" in done.output and "skipped: binary 1" in done.output
    assert json.loads((tmp_path / "r.json").read_text())["documents"] == 2
    done = weft("search", out, "中国首都", "-k", 5, "--json", tmp_path / "r.json")
    assert done.exit_code == 0 and "北京是中国的首都" in done.output, done.output
    assert "The index has only 2 passages." in done.output
    hit = json.loads((tmp_path / "r.json").read_text())["hits"][0]
    assert (notes / "北京.md").read_text()[hit["start"] : hit["end"]] == hit["text"]
    done = weft("ask", out, "How tall is the tower?", "--json", tmp_path / "r.json")
    assert done.exit_code == 0 and "330 metres tall. [1]" in done.output, done.output
    assert "[1] notes/tower.txt [0:" in done.output
    assert json.loads((tmp_path / "r.json").read_text())["found"] is True
    done = weft("ask", out, "Who sells violins?")
    assert done.exit_code == 0 and "Nothing was found" in done.output
    done = weft("search", out, "violins", "--how", "bm25")
    assert done.exit_code == 0 and "No passage fits." in done.output


def test_what_is_wrong_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for code, words, arguments in (
        (1, "No files were found", ("index", tmp_path / "empty", "--out", tmp_path / "out")),
        (1, "holds no index", ("search", tmp_path / "empty", "words")),
        (1, "holds no index", ("ask", tmp_path / "none", "words")),
        (2, "--out", ("index", tmp_path)),
    ):
        done = weft(*arguments)
        assert done.exit_code == code and words in done.output and "Traceback" not in done.output
