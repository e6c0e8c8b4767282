"""What happens to what was found: tags, fakes, dropped documents, counts, and the step on the engine."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from weft.core import config as configuration
from weft.core.errors import ConfigError, ResourceError
from weft.data.config import DataConfig, PersonalConfig
from weft.data.engine import daft
from weft.data.personal.checksums import luhn_valid, resident_check
from weft.data.personal.fakes import Fakes, load_secret
from weft.data.personal.replace import Deidentifier
from weft.data.personal.scan import PatternFinder
from weft.data.personal.span import KINDS, Span
from weft.data.schema import PERSONAL
from weft.data.steps.personal import deidentify

SECRET = b"0123456789abcdef"
REPLACE = PersonalConfig(**dict.fromkeys(KINDS, "replace"))  # type: ignore[arg-type]


class Names:
    """A finder of one name, as a model of names would be."""

    kinds = ("person",)

    def find(self, texts: Sequence[str]) -> list[Span]:
        return [
            Span(number, match.start(), match.end(), "person", match.group())
            for number, text in enumerate(texts)
            for match in re.finditer("张三", text)
        ]


def deidentified(text: str, config: PersonalConfig) -> str:
    return Deidentifier(config, [PatternFinder(config)], SECRET).apply([text]).texts[0]


def test_tags_stand_where_the_values_stood() -> None:
    text = "张三的手机是13800138000，邮箱zhang@qq.com。Call (415) 555-2671!"
    worker = Deidentifier(PersonalConfig(), [PatternFinder(), Names()], SECRET)
    result = worker.apply(["没有。", text])
    assert result.texts == ["没有。", "<PERSON>的手机是<PHONE>，邮箱<EMAIL>。Call <PHONE>!"]
    assert result.counts == [{}, {"person": 1, "phone": 2, "email": 1}]
    assert worker.kinds == (*KINDS, "person")


def test_policies_differ_by_kind() -> None:
    config = PersonalConfig(email="keep", phone="replace", ip="drop")
    text = "邮箱a@b.org，电话13800138000"
    worker = Deidentifier(config, [PatternFinder(config)], SECRET)
    kept, gone = worker.apply([text, text + "，58.74.121.78"]).texts
    assert kept.startswith("邮箱a@b.org，电话555") and len(kept) == len(text)
    assert gone.endswith("，<IP>")
    assert worker.apply([text, text + "，58.74.121.78"]).dropped == [None, "ip"]


@pytest.mark.parametrize(
    ("kind", "value", "form"),
    [
        ("email", "zhang.san@qq.com", r"user-[0-9a-f]{10}@example\.com"),
        ("phone", "13800138000", r"555\d{8}"),
        ("phone", "+86 138-0013-8000", r"\+86 555-\d{4}-\d{4}"),
        ("phone", "（０１０）８２３４５６７８", r"（５５５）[０-９]{8}"),
        ("phone", "0044 20 7946 0958", r"0044 55 5\d{3} \d{4}"),
        ("resident_id", "11010519491231002X", r"99\d{16}"),
        ("resident_id", "110105491231002", r"99\d{13}"),
        ("bank_card", "4532 2766 4457 7020", r"0\d{3} \d{4} \d{4} \d{4}"),
        ("us_ssn", "531-21-7351", r"000-\d{2}-\d{4}"),
        ("passport", "E12345678", r"X000\d{5}"),
        ("plate", "京A·12345", r"[\u4e00-\u9fff]I·\d{5}"),
        ("plate", "粤B12345D", r"[\u4e00-\u9fff]I\d{5}D"),
        ("ip", "58.74.121.78", r"2[45]\d\.\d+\.\d+\.\d+"),
        ("ip", "2606:4700:4700::1111", r"2001:db8:[0-9a-f:]+"),
        ("mac", "00-1A-2B-3C-4D-5E", r"02-00-00-[0-9a-f]{2}-[0-9a-f]{2}-[0-9a-f]{2}"),
        ("iban", "GB33 BUKB 2020 1555 5555 55", r"GB00 XXXX \d{4} \d{4} \d{4} \d{2}"),
        ("key", "AKIAIOSFODNN7EXAMPLE", r"EXAMPLE[0-9a-f]{13}"),
        (
            "key",
            "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----",
            r"-----BEGIN[\s\S]+EXAMPLE[\s\S]+-----",
        ),
        ("url_credentials", "bob:s3cret99", r"user:EXAMPLE[0-9a-f]{10}"),
        ("address", "杭州市西湖区文三路90号", r"示例市示例区示例路\d+号"),
        ("address", "221B Baker Street", r"\d+ Example Street"),
        ("person", "张三", r"PERSON [0-9a-f]{8}"),
    ],
)
def test_fakes_have_the_form_of_the_value_and_are_not_real(kind: str, value: str, form: str) -> None:
    fakes = Fakes(SECRET)
    assert re.fullmatch(form, fakes.fake(kind, value))
    assert fakes.fake(kind, value) == Fakes(SECRET).fake(kind, value)
    assert fakes.fake(kind, value) != Fakes(SECRET[::-1]).fake(kind, value)


def test_checksums_of_fakes_are_wrong() -> None:
    fakes = Fakes(SECRET)
    for number in range(200):
        assert not luhn_valid(fakes.fake("bank_card", f"62220212345{number:05}"))
        fake = fakes.fake("resident_id", f"11010519491231{number:03}X")
        assert resident_check(fake[:17]) != fake[17]


def test_equal_values_get_equal_fakes_whatever_their_separators() -> None:
    first, second = deidentified("138 0013 8000和13800138000", REPLACE).split("和")
    assert first.replace(" ", "") == second
    assert deidentified("13800138000", REPLACE) != deidentified("13800138001", REPLACE)


def test_fakes_with_check_digits_and_tags_are_not_found_again() -> None:
    for text in (
        "11010519491231002X",
        "4532276644577020",
        "GB33BUKB20201555555555",
        "531-21-7351",
        "京A12345",
    ):
        assert PatternFinder().find([deidentified(text, REPLACE)]) == []
    assert PatternFinder().find([f"在<{kind.upper()}>里" for kind in KINDS]) == []


def test_secrets_are_read_or_made(tmp_path: Path) -> None:
    assert load_secret(None) != load_secret(None) and len(load_secret(None)) == 32
    file = tmp_path / "secret"
    with pytest.raises(ConfigError, match=r"secret_file = .*secret cannot be read \(No such file"):
        load_secret(str(file))
    file.write_bytes(b"short")
    with pytest.raises(ConfigError, match="holds 5 bytes; give at least 16"):
        load_secret(str(file))
    file.write_bytes(SECRET + b"\n")
    assert load_secret(str(file)) == SECRET


def test_an_unknown_policy_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"personal\.phone"):
        configuration.load(DataConfig, None, ['personal.phone="hide"'])
    assert configuration.load(DataConfig, None, ["personal.ip=keep"]).personal.ip == "keep"


def frame(rows: list[dict[str, Any]]) -> Any:
    return daft.from_pylist(rows)


def test_the_step_changes_texts_counts_and_drops() -> None:
    rows = [
        {"source": "a", "text": "手机13800138000和13912345678", "reason": None, "value": None},
        {"source": "b", "text": None, "reason": "unreadable", "value": "x"},
        {"source": "c", "text": "服务器58.74.121.78", "reason": None, "value": None},
        {"source": "d", "text": "服务器58.74.121.78", "reason": "too_short", "value": "3"},
        {"source": "e", "text": "春眠不觉晓", "reason": None, "value": None},
    ]
    result = deidentify(frame(rows), PersonalConfig(ip="drop"), [Names()]).sort("source").to_pylist()
    assert [row["text"] for row in result] == [
        "手机<PHONE>和<PHONE>",
        None,
        "服务器<IP>",
        "服务器<IP>",
        "春眠不觉晓",
    ]
    reasons = [(row["reason"], row["value"]) for row in result]
    assert reasons == [
        (None, None),
        ("unreadable", "x"),
        ("personal_data", "ip"),
        ("too_short", "3"),
        (None, None),
    ]
    assert result[1][PERSONAL] is None or set(result[1][PERSONAL].values()) == {None}
    assert result[0][PERSONAL] == dict.fromkeys([*KINDS, "person"], 0) | {"phone": 2}
    assert result[4][PERSONAL] == dict.fromkeys([*KINDS, "person"], 0)


def test_presidio_that_is_not_installed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("spacy", "presidio_analyzer"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ResourceError, match=r"pip install 'weft\[presidio\]'"):
        deidentify(frame([{"text": "a", "reason": None, "value": None}]), PersonalConfig(presidio=True))


def test_finding_needs_no_engine() -> None:
    code = (
        "import sys; sys.modules['daft'] = None\n"
        "from weft.data.personal.replace import Deidentifier\n"
        "from weft.data.personal.scan import PatternFinder\n"
        "assert PatternFinder().find(['手机13800138000'])\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
