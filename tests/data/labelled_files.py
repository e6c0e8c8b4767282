"""Small files of labelled data, and reading them in tests."""

import json
from pathlib import Path
from typing import Any

import pytest

from weft.data.labelled import read

ROLES = """\
# text = Have a mechanic check it
1\tHave\thave\tVB\thave\thave.04\t(V*)\t*
2\ta\ta\tDT\t-\t-\t(ARG1*\t(ARG0*
3\tmechanic\tmechanic\tNN\t-\t-\t*\t*)
4\tcheck\tcheck\tVB\tcheck\tcheck.01\t*\t(V*)
5\tit\tit\tPRP\t-\t-\t*)\t(ARG1*)

1\tgone\tgone\tJJ\t-\t-

"""


@pytest.fixture
def made(tmp_path: Path) -> Any:
    """Writes a file of text or bytes."""

    def write(content: str | bytes, name: str = "data.txt") -> Path:
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return file

    return write


def good(name: str, file: Any, **options: Any) -> list[Any]:
    """The records, where nothing may be broken."""
    found = list(read(name, file, **options))
    assert [reason for _, _, reason, _ in found if reason] == []
    return [record for _, record, _, _ in found]


def reasons(name: str, file: Any, **options: Any) -> list[tuple[str, str | None, str | None]]:
    """(where, reason, value) of what is broken; a reason never comes with a record."""
    found = list(read(name, file, **options))
    assert all((record is None) == (reason is not None) for _, record, reason, _ in found)
    assert all(value is None or value.encode("utf-8") is not None for *_, value in found)
    return [(where, reason, value) for where, _, reason, value in found if reason]


def surfaces(record: dict[str, Any], spans: str = "spans") -> list[tuple[str, str]]:
    return [(record["text"][span["start"] : span["end"]], span["label"]) for span in record[spans]]


def squad(*questions: Any, context: Any = "李白在长安，在长安。") -> str:
    whole = {
        "version": "v2.0",
        "data": [{"title": "t", "paragraphs": [{"context": context, "qas": questions}]}],
    }
    return json.dumps(whole, ensure_ascii=False)


def question(*answers: Any, **more: Any) -> dict[str, Any]:
    return {"id": "q", "question": "哪里？", "answers": list(answers), **more}
