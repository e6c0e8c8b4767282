"""Personal data is found, beside Han characters too; what only looks like it is not; both paths agree."""

import pickle
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.data.config import PersonalConfig
from weft.data.personal.checksums import entropy, iban_valid, luhn_valid, resident_check
from weft.data.personal.fold import Folded, fold
from weft.data.personal.scan import PatternFinder
from weft.data.personal.span import Span, resolve

PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA0Zx\n-----END RSA PRIVATE KEY-----"
VALUES = [
    ("email", "zhang.san@example.com"),
    ("email", "li_4+news@mail.qq.com.cn"),
    ("email", "ｗａｎｇ＠ｅｘａｍｐｌｅ．ｃｏｍ"),
    ("phone", "13800138000"),
    ("phone", "138-0013-8000"),
    ("phone", "１３８００１３８０００"),
    ("phone", "+86 138 0013 8000"),
    ("phone", "008613800138000"),
    ("phone", "(+86)13800138000"),
    ("phone", "010-82345678"),
    ("phone", "（010）82345678"),
    ("phone", "0571－8765432"),
    ("phone", "0755-82345678转8012"),
    ("phone", "+852 2345 6789"),
    ("phone", "(852)23456789"),
    ("phone", "0912-345-678"),
    ("phone", "02-2345-6789"),
    ("phone", "+886 912 345 678"),
    ("phone", "(415) 555-2671"),
    ("phone", "415-555-2671"),
    ("phone", "+1 415.555.2671 x204"),
    ("phone", "+44 20 7946 0958"),
    ("phone", "+46 (0)8 928 571 38"),
    ("phone", "07700 900 123"),
    ("resident_id", "11010519491231002X"),
    ("resident_id", "11010519491231002x"),
    ("resident_id", "１１０１０５１９４９１２３１００２Ｘ"),
    ("resident_id", "110105 19491231 002X"),
    ("bank_card", "4532276644577020"),
    ("bank_card", "4532 2766 4457 7020"),
    ("bank_card", "6222021234567890128"),
    ("bank_card", "6222-0212-3456-7890-128"),
    ("bank_card", "371449635398431"),
    ("bank_card", "3714 496353 98431"),
    ("plate", "京A12345"),
    ("plate", "京A·12345"),
    ("plate", "粤B12345D"),
    ("plate", "沪AD12345"),
    ("plate", "浙A1234学"),
    ("ip", "58.74.121.78"),
    ("ip", "2606:4700:4700::1111"),
    ("ip", "2001:4860:4860:0:0:0:0:8888"),
    ("mac", "00:1A:2B:3C:4D:5E"),
    ("mac", "00-1a-2b-3c-4d-5e"),
    ("iban", "GB33BUKB20201555555555"),
    ("iban", "DE89 3704 0044 0532 0130 00"),
    ("us_ssn", "531-21-7351"),
    ("key", "AKIAIOSFODNN7EXAMPLE"),
    ("key", "ghp_16C7e42F292c6912E7710c838347Ae178B4a"),
    ("key", "sk-proj-T3BlbkFJ9d8f7g6h5j4k3l2m1n0p"),
    ("key", "-".join(["xoxb", "123456789012", "abcDEF123ghiJKL"])),
    ("key", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"),
    ("key", PEM),
    ("address", "杭州市西湖区文三路90号3栋2单元501室"),
    ("address", "北京市海淀区中关村大街二十七号"),
    ("address", "221B Baker Street, London"),
    ("address", "1600 Pennsylvania Ave, Washington, DC 20500"),
    ("address", "12 North Main St."),
]
ANNOUNCED = [
    ("phone", "电话：", "82345678"),
    ("phone", "Phone:\n", "60-56-85-91"),
    ("passport", "护照号码", "E12345678"),
    ("passport", "my passport is ", "EA1234567"),
    ("us_ssn", "Social Security number ", "531217351"),
    ("bank_card", "卡号", "501800000009"),
    ("bank_card", "card ", "4222222222222"),
    ("key", "api_key = '", "a8f5f167f44f4964e6c998dee827110c"),
    ("key", '"secret_key": "', "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLE1KEY2"),
    ("key", "密码：", "8b940f96-c46d-46aa-81a0-701de3c43c8f"),
    ("url_credentials", "https://", "bob:s3cret99"),
    ("ip", "服务器", "8.8.4.4"),
]
NOT_PERSONAL = [
    "version 10.20.30.40 is out, 版本号 1.12.13.14, see section 2.1.3.4 and Chrome 120.0.6099.109",
    "2004-05-12 12:34:56.789012, 20040512123456, 1700000000, 1700000000123, 第1234567890号文件",
    "ISBN 978-7-111-12345-6, ISSN 1234-5678, doi:10.1000/182, arXiv:2205.14135v2",
    "d41d8cd98f00b204e9800998ecf8427e 550e8400-e29b-41d4-a716-446655440000",
    "sha256:9f86d081884c7d659a2feaa0c55ad015",
    "3.14159265358979 0.13800138000 1,234,567,890.00 -13800138000.5 x13800138000 13800138000px $13800138000",
    "0010 0011 0100 0101 | 12 34 56 78 90 12 34 | 0.1 0.25 0.3125 100.0 99.75",
    "12345678901 110105194912310021 4532276644577021 GB33BUKB20201555555556 000-12-3456 666-12-3456",
    "std::vector<int> a::b::c, 12:34:56, 1:2, Foo::bar(::baz), face::cafe",
    "@app.route('/') git@github.com:a/b icon@2x.png (1..@size.width) a@b user@host",
    "-@- M @-@ 28 ...@example.com",
    "https://user:password@host.org https://${USER}:${PASS}@host.org http://host.org:8080/@home",
    "127.0.0.1 192.168.1.1 10.0.0.1 255.255.255.0 224.0.0.1 ::1 fe80::1234:5678:9abc:def0",
    "ff:ff:ff:ff:ff:ff 12-34-56-78-90-12 00:11:22:33:44:55:66:77 aa:bb:cc",
    "in 1999 Wall Street crashed; 9 Supreme Court justices; 2008 Summer Olympics; 8 Mile Road; 3 Way tie",
    "3月5号，2号线，第三号，编号12号，新A380客机，阿里云A100GPU，川A，京东ABCDE 沪深300",
    "sk-xxxxxxxxxxxxxxxxxxxxxxxx public_key = 'abc' token = some_long_identifier_name2 E12345678 7654321",
    "for i in range(10000000): total += 1e-8 * 0xdeadbeef12345678 + 1234567 - 7654321 / 1000000",
    "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。一二三四五六七八九十百千万亿",
    "第十一届全国人民代表大会第三次会议于2010年3月5日至14日举行，共有2987名代表出席。",
]


@pytest.fixture(scope="module")
def finder() -> PatternFinder:
    return PatternFinder()


@pytest.mark.parametrize(("kind", "value"), VALUES)
@pytest.mark.parametrize(("left", "right"), [("", ""), ("这是", "的。"), ("Here: ", ", yes"), ("\n", "\n")])
def test_is_found(finder: PatternFinder, kind: str, value: str, left: str, right: str) -> None:
    text = left + value + right
    assert finder.find([text]) == [Span(0, len(left), len(left) + len(value), kind, value)]
    assert finder.find_plainly([text]) == finder.find([text])


@pytest.mark.parametrize(("kind", "words", "value"), ANNOUNCED)
def test_words_before_it_make_it_known(finder: PatternFinder, kind: str, words: str, value: str) -> None:
    after = "@host.org" if kind == "url_credentials" else ""
    text = f"甲{words}{value}{after}"
    assert finder.find([text])[0] == Span(0, text.index(value), text.index(value) + len(value), kind, value)
    assert not [span for span in finder.find([f"甲{value}"]) if span.kind == kind]


@pytest.mark.parametrize("text", NOT_PERSONAL)
def test_what_only_looks_like_it_is_left(finder: PatternFinder, text: str) -> None:
    assert finder.find([text]) == finder.find_plainly([text]) == []


def test_brackets_belong_to_a_number_only_in_pairs(finder: PatternFinder) -> None:
    for value in ("+86 138 0013 8000", "010-82345678", "+44 20 7946 0958", "+852 2345 6789", "02-2345-6789"):
        assert [span.text for span in finder.find([f"电话（{value}）", f"({value})"])] == [value, value]
    assert [span.text for span in finder.find(["电话（82345678）"])] == ["82345678"]
    assert [span.text for span in finder.find(["(+49) 30 1234567"])] == ["(+49) 30 1234567"]


def test_planted_numbers_touching_han_text_are_all_found(finder: PatternFinder) -> None:
    chosen = random.Random(3)
    texts, planted = [], []
    for number in range(400):
        value, kind = _valid(chosen)
        left, right = "".join(chosen.choices("号码是：，（请在的为人", k=3)), chosen.choice("。请的）")
        texts.append(left + value + right)
        planted.append(Span(number, 3, 3 + len(value), kind, value))
    assert finder.find(texts) == planted


def _valid(chosen: random.Random) -> tuple[str, str]:
    form = chosen.randrange(4)
    if form == 0:
        born = f"{chosen.randint(1930, 2023)}{chosen.randint(1, 12):02}{chosen.randint(1, 28):02}"
        place = chosen.choice(["110105", "310101", "440305", "510104", "659001"])
        body = f"{place}{born}{chosen.randint(0, 999):03}"
        return body + resident_check(body), "resident_id"
    if form == 1:
        body = "62" + "".join(chosen.choices("0123456789", k=chosen.randint(13, 16)))
        return next(body + digit for digit in "0123456789" if luhn_valid(body + digit)), "bank_card"
    if form == 2:
        return f"1{chosen.choice('35789')}{chosen.choice('012356')}{chosen.randint(0, 99999999):08}", "phone"
    return (
        f"{''.join(chosen.choices('abcxyz019', k=8))}@{chosen.choice(['qq.com', '163.com', 'a-b.org.cn'])}",
        "email",
    )


PARTS = [
    *(value for _, value in VALUES),
    *(words + value for _, words, value in ANNOUNCED),
    *NOT_PERSONAL,
    *"0123456789abcdEXx@:.-+()/ _号路市京\n（）＠１·转°é😀\udc80",
    "://",
    "1380013",
    "4532 2766 ",
    "-----BEGIN ",
    "PRIVATE KEY-----",
    "api_key=",
    "00",
    "::",
    "::1",
    "AB12",
    " St",
    ", CA 94105",
    "12弄3号",
    "村",
]


@pytest.mark.parametrize(
    "text", ["5e+86 912 3450678春", "+4）0)8 92x 571 38", "转+１654.50x35116/转京a", "电话 12 34x567"]
)
def test_both_paths_agree_on_what_once_differed(finder: PatternFinder, text: str) -> None:
    assert finder.find([text]) == finder.find_plainly([text])


@settings(max_examples=400, deadline=None)
@given(st.lists(st.lists(st.sampled_from(PARTS), max_size=10).map("".join), max_size=4))
def test_both_paths_agree(texts: list[str]) -> None:
    for config in (PersonalConfig(), PersonalConfig(private_ip=True, old_resident_id=True)):
        finder = PatternFinder(config)
        assert finder.find(texts) == finder.find_plainly(texts)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.sampled_from("01239aAfEx@:.-+()/ _号路市区京\n１·"), max_size=60), max_size=3))
def test_both_paths_agree_on_noise(texts: list[str]) -> None:
    finder = PatternFinder()
    assert finder.find(texts) == finder.find_plainly(texts)


def test_many_texts_are_looked_at_in_chunks(finder: PatternFinder) -> None:
    long = "春眠不觉晓。" * 30_000
    texts = [long, "手机13800138000", "", long + "a@b.org", "5", "58.74.121.78" + long]
    found = finder.find(texts)
    assert [(span.document, span.text) for span in found] == [
        (1, "13800138000"),
        (3, "a@b.org"),
        (5, "58.74.121.78"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a@" * 20_000,
        "1 " * 20_000,
        "9" * 40_000,
        "-----BEGIN PRIVATE KEY-----" * 2_000,
        "::" * 20_000,
        "市区路1号" * 2_000,
        "市" * 20_000 + "1号",
        "1 A" * 10_000,
        "api_key=" * 5_000 + "a" * 20_000,
        "(" * 20_000,
        "://" * 5_000 + "@a" * 2_000,
    ],
)
def test_hostile_text_takes_no_longer(finder: PatternFinder, text: str) -> None:
    # The time limit of the test run is what would fail: patterns must not look back over whole texts.
    finder.find([text])


def test_private_addresses_and_old_ids_when_asked() -> None:
    text = "主机192.168.1.1和fe80::1234:5678:9abc:def0，身份证110105491231002"
    assert PatternFinder().find([text]) == []
    finder = PatternFinder(PersonalConfig(private_ip=True, old_resident_id=True))
    assert [span.kind for span in finder.find([text])] == ["ip", "ip", "resident_id"]


def test_overlaps_resolve_to_credentials_then_the_longest_then_the_more_specific() -> None:
    def span(start: int, end: int, kind: str, document: int = 0) -> Span:
        return Span(document, start, end, kind, "")

    spans = [span(0, 9, "email"), span(0, 4, "url_credentials"), span(5, 20, "phone"), span(6, 12, "ip")]
    assert resolve(spans) == [span(0, 4, "url_credentials"), span(5, 20, "phone")]
    assert resolve([span(3, 9, "phone"), span(3, 9, "resident_id")]) == [span(3, 9, "resident_id")]
    assert resolve([span(3, 9, "person"), span(3, 9, "phone")]) == [span(3, 9, "phone")]
    twice = [span(1, 2, "ip", 1), span(1, 2, "ip", 0), span(1, 2, "ip", 1)]
    assert resolve(twice) == [span(1, 2, "ip", 0), span(1, 2, "ip", 1)]


def test_folding_keeps_every_offset() -> None:
    texts = ["１２－３（a）\u3000Ｘ\u2013\u30fb号😀\udc80京", "plain", ""]
    folded = Folded(texts)
    assert fold(texts[0]) == "12-3(a) X-·号😀\udc80京"
    assert [folded.text(number) for number in range(3)] == [fold(text) for text in texts]
    assert len(folded.classes) == sum(map(len, texts)) + 2


def test_checksums() -> None:
    assert resident_check("11010519491231002") == "X"
    assert luhn_valid("79927398713") and not luhn_valid("79927398710")
    assert iban_valid("GB82WEST12345698765432") and not iban_valid("GB82WEST12345698765431")
    assert entropy("") == 0 and entropy("aaaa") == 0 and entropy("abcd") == 2


def test_a_finder_can_go_to_another_process(finder: PatternFinder) -> None:
    again = pickle.loads(pickle.dumps(finder))
    assert again.find(["a@b.org"]) == finder.find(["a@b.org"])
