"""HTML, WARC, EPUB and PDF: the text that people read, in the right encoding."""

import gzip
import io
import sys
import zipfile
import zlib
from pathlib import Path

import pytest

from weft.data import kinds
from weft.data.config import ReadConfig
from weft.data.readers import pdf
from weft.data.readers.documents import documents
from weft.data.readers.html import page_text
from weft.data.readers.part import Part

ZH = "自然语言处理是人工智能的重要方向，研究如何让计算机理解和生成人类的语言。"
PAGE = f"""<!DOCTYPE html><html><head><title> 语言
 模型 </title>META<style>p {{}}</style></head><body><nav><a href="/">首页</a><a href="/x">关于</a></nav>
<main><h1>Heading</h1><p>{ZH}</p><script>alert(1)</script><p>second &amp; last</p></main>
<footer>Imprint</footer></body></html>"""
TEXT = f"语言 模型\n\nHeading\n\n{ZH}\n\nsecond & last"


def read(file: Path, config: ReadConfig | None = None) -> list[Part]:
    kind, language, _ = kinds.classify(file, given=True)
    assert kind is not None
    with file.open("rb") as stream:
        return list(documents(stream, file, kind, language, config or ReadConfig()))


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ('<meta charset="utf-8">', "utf-8"),
        ("", "utf-8"),
        ("<meta charset=gb2312>", "gb18030"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=gbk">', "gbk"),
        ("", "gb18030"),
        ('<meta charset="utf-8">', "gb18030"),
        ('<meta charset="utf-8">', "utf-16"),
    ],
)
def test_main_text_and_title_of_pages(tmp_path: Path, declared: str, encoding: str) -> None:
    file = tmp_path / "x.html"
    file.write_bytes(PAGE.replace("META", declared).encode(encoding))
    assert read(file) == [Part("", file.stat().st_size, TEXT)]


def test_pages_of_other_shapes() -> None:
    assert page_text(b"<p>one<p>two", None) == ("one\n\ntwo", None, None)
    assert page_text(b"", None) == ("", None, None)
    assert page_text("<p>日本語</p>".encode("euc_jp"), "EUC-JP") == ("日本語", None, None)
    assert page_text(b"<title>A</title><nav>only a menu</nav>", None)[0] == "A\n\nonly a menu"
    assert page_text(b"<p>a\0\x01\x02", None)[1] == "binary"
    assert page_text(b"<p>\xff\xfe\xfd", "no-such-charset")[1] == "invalid_encoding"
    deep = b"<div>" * 20_000 + b"text"
    assert page_text(deep, None)[0] is not None


def test_a_page_that_breaks_off_is_kept_so_far(tmp_path: Path) -> None:
    file = tmp_path / "x.html.gz"
    paragraphs = "".join(f"<p>{number * 7919**3 % 1_000_003} {ZH}</p>" for number in range(3000))
    packed = gzip.compress(paragraphs.encode())
    file.write_bytes(packed[: len(packed) // 2])
    kept, last = read(file)
    assert kept.text is not None and kept.text.startswith(f"0 {ZH}") and last.reason == "truncated"


CHUNKED = "text/html\r\nTransfer-Encoding: chunked"


def warc_record(
    number: int, body: bytes, kind: str = "response", head: str = "text/html", status: int = 200
) -> bytes:
    if kind == "conversion":
        block, media = body, head
    else:
        block = f"HTTP/1.1 {status} OK\r\nContent-Type: {head}\r\n\r\n".encode() + body
        media = "application/http; msgtype=response"
    return (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{number}>\r\n"
        f"WARC-Target-URI: http://example.org/{number}\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
        f"Content-Type: {media}\r\nContent-Length: {len(block)}\r\n\r\n"
    ).encode() + block + b"\r\n\r\n"  # fmt: skip


def crawl() -> list[bytes]:
    gbk = PAGE.replace("META", "").encode("gbk")
    return [
        warc_record(0, b"ignored", "request"),
        warc_record(1, PAGE.replace("META", "").encode(), head="text/html; charset=utf-8"),
        warc_record(2, gbk, head="text/html; charset=gb2312"),
        warc_record(3, gbk),
        warc_record(4, ZH.encode("gb18030"), head="text/plain"),
        warc_record(5, b"\x89PNG", head="image/png"),
        warc_record(6, b"<p>not found", status=404),
        warc_record(7, ZH.encode(), "conversion", "text/plain"),
        warc_record(8, b"\x1f\x8b broken", head="text/html\r\nContent-Encoding: gzip"),
        warc_record(9, gzip.compress(b"<p>packed"), head="text/html\r\nContent-Encoding: gzip"),
        warc_record(10, gzip.compress(b"<p>packed")[:-9], head="text/html\r\nContent-Encoding: gzip"),
        warc_record(11, zlib.compress(b"<p>flat"), head="text/html\r\nContent-Encoding: deflate"),
        warc_record(12, b"4\r\n<p>p\r\n5;x=1\r\nieces\r\n0\r\n\r\n", head=CHUNKED),
        warc_record(13, b"4\r\n<p>p\r\n5\r\nie", head=CHUNKED),
        warc_record(14, b"<p>no longer in chunks", head=CHUNKED),
        warc_record(15, b"\x0b\x02", head="text/html\r\nContent-Encoding: br"),
    ]


@pytest.mark.parametrize("suffix", ["warc", "warc.gz"])
def test_pages_of_a_crawl(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"x.{suffix}"
    file.write_bytes(b"".join(gzip.compress(r) if suffix.endswith("gz") else r for r in crawl()))
    parts = read(file)
    assert len({part.name for part in parts}) == len(parts)
    got = [part.text if part.reason is None else part.reason for part in parts]
    assert got[:7] == [TEXT, TEXT, TEXT, ZH, "unsupported", "http_status", ZH]
    coded = ["damaged", "packed", "damaged", "flat", "pieces", "damaged", "no longer in chunks", "damaged"]
    assert got[7:] == coded
    assert parts[4].value == "image/png" and parts[5].value == "404"
    large = read(file, ReadConfig(max_document_bytes=100))
    assert large[0].reason == "too_large" and large[3].reason is None


def test_a_crawl_that_breaks_off_keeps_its_pages(tmp_path: Path) -> None:
    records = [warc_record(n, f"<p>{n} {ZH}".encode() * 50) for n in range(5)]
    content = b"".join(records)
    size = len(records[0])
    file = tmp_path / "x.warc"
    file.write_bytes(content[: 3 * size + 2000])
    assert [part.reason for part in read(file)] == [None, None, None, "truncated"]
    file.write_bytes(content[: 2 * size] + b"#" * 300 + content[2 * size + 300 :])
    assert [part.reason for part in read(file)] == [None, None, "damaged"]
    file.write_bytes(b"this is not a crawl\n" * 100)
    assert [part.reason for part in read(file)] == ["damaged"]
    packed = b"".join(map(gzip.compress, records))
    (tmp_path / "y.warc.gz").write_bytes(packed[: len(packed) - 40])
    assert [part.reason for part in read(tmp_path / "y.warc.gz")] == [None] * 4 + ["truncated"]


def book(chapters: list[str], encryption: str = "") -> bytes:
    items = "".join(
        f'<item id="c{n}" href="text/c%20{n}.xhtml" media-type="application/xhtml+xml"/>'
        for n in reversed(range(len(chapters)))
    )
    spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OEBPS/content.opf"/></rootfiles></container>',
        )
        archive.writestr(
            "OEBPS/content.opf",
            f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}'
            f'<item id="i" href="a.png" media-type="image/png"/></manifest><spine>{spine}</spine></package>',
        )
        for number, chapter in enumerate(chapters):
            archive.writestr(f"OEBPS/text/c {number}.xhtml", f"<html><body><p>{chapter}</p></body></html>")
        if encryption:
            archive.writestr("META-INF/encryption.xml", encryption)
    return buffer.getvalue()


def test_books_are_read_in_the_order_of_their_spine(tmp_path: Path) -> None:
    file = tmp_path / "x.epub"
    file.write_bytes(book([ZH, "two", "three"]))
    assert read(file) == [Part("", file.stat().st_size, f"{ZH}\n\ntwo\n\nthree")]


def test_bad_books_have_a_reason(tmp_path: Path) -> None:
    file = tmp_path / "x.epub"
    locked = '<e xmlns="x"><CipherReference URI="OEBPS/text/c%200.xhtml"/></e>'
    for content, reason in (
        (book(["a"], locked), "encrypted"),
        (book(["a"])[:-40], "damaged"),
        (b"", "damaged"),
        (book(["a"]).replace(b"META-INF/container.xml", b"META-INF/containe_.xml"), "damaged"),
        (book(["x" * (40 << 20)]), "zip_bomb"),
    ):
        file.write_bytes(content)
        assert [part.reason for part in read(file)] == [reason]
    file.write_bytes(book(["a" * 5000]))
    assert read(file, ReadConfig(max_document_bytes=2000))[0].reason == "zip_bomb"
    assert read(file, ReadConfig(max_document_bytes=100))[0].reason == "too_large"


def a_pdf(text: str, password: str = "") -> bytes:
    pypdf = pytest.importorskip("pypdf")
    stream = f"BT /F1 24 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    content, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    start = len(content)
    content += b"xref\n0 6\n0000000000 65535 f \n" + table
    content += b"trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % start
    if not password:
        return content
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(content))
    writer.encrypt(password, algorithm="RC4-40")
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def test_pages_of_pdf(tmp_path: Path) -> None:
    file = tmp_path / "x.pdf"
    file.write_bytes(a_pdf("Hello pages"))
    assert [part.text for part in read(file)] == ["Hello pages"]
    for content, reason in (
        (b"%PDF-1.4\nnothing", "damaged"),
        (b"", "damaged"),
        (a_pdf("secret", "password"), "encrypted"),
    ):
        file.write_bytes(content)
        assert [part.reason for part in read(file)] == [reason]
    file.write_bytes(a_pdf("x"))
    assert read(file, ReadConfig(max_document_bytes=10))[0].reason == "too_large"


def test_pdf_without_the_extra_has_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdf", None)
    pdf._pypdf.cache_clear()
    file = tmp_path / "x.pdf"
    file.write_bytes(b"%PDF-1.4")
    [part] = read(file)
    assert (part.reason, part.value) == ("needs_extra", "pip install 'weft[pdf]'")
    pdf._pypdf.cache_clear()
