"""What the reasons for dropping a document, and kinds of personal data, mean in English and Chinese."""

from __future__ import annotations

from weft.core.page import Words

REASONS = {
    "bad_csv": Words("a row that does not fit its table", "与表格不符的行"),
    "bad_json": Words("a record that is not JSON", "不是合法的 JSON 记录"),
    "binary": Words("not text by its name or its bytes", "从文件名或字节看不是文本"),
    "c4": Words("breaks a rule of C4", "不符合 C4 规则"),
    "chinese": Words("breaks a quality rule for Chinese", "不符合中文质量规则"),
    "chinese_repetition": Words("repeats itself, by the rules for Chinese", "按中文规则重复过多"),
    "classifier": Words("below the threshold of the quality classifier", "低于质量分类器的阈值"),
    "common_lines": Words("nothing but lines that other documents have", "只有其他文档也有的行"),
    "contaminated": Words("shares text with an evaluation set", "与评测集有重合文本"),
    "damaged": Words("a file that cannot be unpacked", "文件损坏，无法解开"),
    "empty": Words("nothing but white space", "只有空白"),
    "encrypted": Words("locked with a password", "有密码保护"),
    "exact_duplicate": Words("the same text as a kept document", "与某篇保留文档完全相同"),
    "fineweb": Words("breaks a rule of FineWeb", "不符合 FineWeb 规则"),
    "generated": Words("code that a program wrote", "由程序生成的代码"),
    "gopher_quality": Words("breaks a quality rule of Gopher", "不符合 Gopher 质量规则"),
    "gopher_repetition": Words("repeats itself, by Gopher's rules", "按 Gopher 规则重复过多"),
    "http_status": Words("a page that the server did not give", "服务器未返回的网页"),
    "invalid_encoding": Words("bytes of no known encoding", "编码无法识别"),
    "language": Words("in a language that is not wanted", "不是想要的语言"),
    "link": Words("a link inside an archive", "压缩包内的链接"),
    "long_line": Words("a very long line", "有过长的行"),
    "long_mean_line": Words("very long lines on average", "平均行长过长"),
    "near_duplicate": Words("nearly the same text as a kept document", "与某篇保留文档近乎相同"),
    "needs_extra": Words("needs a package that is not installed", "需要未安装的软件包"),
    "nested_archive": Words("an archive inside an archive", "压缩包中的压缩包"),
    "no_text": Words("a record without a text field", "记录没有文本字段"),
    "not_text": Words("few letters and digits", "字母和数字过少"),
    "other_suffix": Words("another suffix than those asked for", "后缀不在所选之列"),
    "personal_data": Words("personal data of a kind that is not wanted", "含有不应保留的个人信息"),
    "repeated_lines": Words("many repeated lines", "重复行过多"),
    "too_large": Words("larger than the limit", "超过大小上限"),
    "too_short": Words("shorter than the limit", "短于长度下限"),
    "truncated": Words("the file breaks off", "文件不完整"),
    "unreadable": Words("could not be opened", "无法打开"),
    "unsafe_path": Words("an archive member with an unsafe path", "压缩包成员的路径不安全"),
    "unsupported": Words("a kind of file that is not read", "不支持的文件类型"),
    "zip_bomb": Words("unpacks to far more than its size", "解压后远超自身大小"),
}

PERSONAL = {
    "address": Words("postal address", "通信地址"),
    "bank_card": Words("bank card", "银行卡号"),
    "email": Words("e-mail address", "电子邮箱"),
    "iban": Words("IBAN", "国际银行账号"),
    "ip": Words("IP address", "IP 地址"),
    "key": Words("key or password", "密钥或口令"),
    "mac": Words("MAC address", "MAC 地址"),
    "passport": Words("passport number", "护照号"),
    "phone": Words("telephone number", "电话号码"),
    "plate": Words("number plate", "车牌号"),
    "resident_id": Words("resident identity number", "居民身份证号"),
    "url_credentials": Words("password in an address", "网址中的口令"),
    "us_ssn": Words("US social security number", "美国社会安全号"),
}


def explain(table: dict[str, Words], name: str) -> Words:
    """The words for a name, none for one that is not known here."""
    return table.get(name, Words("", ""))
