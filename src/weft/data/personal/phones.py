"""Telephone numbers: mainland China, Hong Kong, Macau, Taiwan, North America, and any with a country code."""

from __future__ import annotations

import re

from weft.data.personal.marks import announced_numbers, numbers
from weft.data.personal.rule import BEFORE_NUMBER, Rule, before

_AFTER_PHONE = r"(?![0-9A-Za-z_%])(?![.,:-][0-9])"
_EXTENSION = r"(?: ?(?:转|轉|分机|x|ext\.? ?) ?[0-9]{1,6}(?![0-9]))?"
_AFTER = _AFTER_PHONE + _EXTENSION
# Brackets belong to the number only where both do.
_CHINA = r"(?:\((?:\+|00)?86\)|(?:\+|00)?86)[ -]?"
_MOBILE = r"1(?:3[0-9]|4[014-9]|5[0-35-9]|6[2567]|7[0-8]|8[0-9]|9[0-35-9])"
_CHINA_MOBILE = re.compile(
    rf"{BEFORE_NUMBER}(?:{_CHINA})?(?:{_MOBILE}([ -]?)[0-9]{{4}}\1[0-9]{{4}}"
    rf"|{_MOBILE}[0-9][ -][0-9]{{3}}[ -][0-9]{{4}}){_AFTER_PHONE}"
)
_AREA = r"(?:10|2[0-57-9]|[3-9][0-9]{2})"
_CHINA_LANDLINE = re.compile(
    rf"{BEFORE_NUMBER}(?:{_CHINA}(?:\(0?{_AREA}\)[ -]?|(?:\(0\))?0?{_AREA}[ -])"
    rf"|\(0{_AREA}\)[ -]?|0{_AREA}[ -])[2-8][0-9]{{2,3}}[ -]?[0-9]{{4}}(?:-[0-9]{{1,5}})?{_AFTER}"
)
_HONG_KONG = re.compile(
    rf"{BEFORE_NUMBER}(?:\((?:\+|00)?85[23]\)[ -]?|(?:\+|00)85[23][ -]?|85[23]-)"
    rf"[2-9][0-9]{{3}}[ -]?[0-9]{{4}}{_AFTER}"
)
_TAIWAN_AREA = r"0(?:2|3|37|4|49|5|6|7|8|82|89)"
_TAIWAN = re.compile(
    rf"{BEFORE_NUMBER}(?:09[0-9]{{2}}([ -]?)[0-9]{{3}}\1[0-9]{{3}}"
    rf"|(?:\({_TAIWAN_AREA}\) ?|{_TAIWAN_AREA}-)[0-9]{{3,4}}[ -][0-9]{{4}}){_AFTER}"
)
_NORTH_AMERICA = re.compile(
    rf"{BEFORE_NUMBER}(?:(?:\+|00)?1[-. ])?(?:\([2-9][0-9]{{2}}\)[ -]?|[2-9][0-9]{{2}}[-.])"
    rf"[2-9][0-9]{{2}}[-. ][0-9]{{4}}{_EXTENSION}{_AFTER_PHONE}"
)
# One digit a turn behind its separators: there is one way only to match, so no backtracking to speak of.
_INTERNATIONAL = re.compile(
    r"(?<![0-9A-Za-z+])(?<![0-9][.,:])"
    r"(?:\((?:\+|00)[1-9][0-9]{0,2}\)|\+(?=[1-9])|00(?=[1-9][0-9]{0,2}[ -]))"
    rf"(?:[ .()-]{{0,3}}[0-9]){{5,15}}{_EXTENSION}{_AFTER_PHONE}"
)
# ITU-T E.164.
_COUNTRY = re.compile(
    r"1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|2[2346][0-9]|50[0-9]|59[0-9]|35[0-9]"
    r"|21[1-368]|25[0-8]|29[0179]|37[0-8]|38[0-79]|42[013]|67[02-9]|68[0-35-9]|69[0-2]|85[02356]|88[06]"
    r"|96[0-8]|97[0-79]|99[2-68]"
)
_TRUNK = re.compile(
    rf"{BEFORE_NUMBER}(?:\(0[1-9][0-9]{{0,3}}\) ?|0[1-9][0-9]{{1,3}}[ -])"
    rf"[0-9]{{2,4}}(?:[ -][0-9]{{2,4}}){{1,3}}"
    rf"{_EXTENSION}{_AFTER_PHONE}"
)
_ANNOUNCED = re.compile(
    rf"{BEFORE_NUMBER}\+?(?:\([0-9]{{1,5}}\)[ -]?)?[0-9](?:[ .()/-]{{0,3}}[0-9]){{2,14}}"
    rf"{_EXTENSION}{_AFTER_PHONE}"
)
_WORDS = re.compile(
    r"(?:\b(?:phone|tel|telephone|mobile|cell|cellphone|fax|sms|whatsapp|contact|desk|dial|call(?! ?\())\b"
    r"|电话|電話|手机|手機|联系方式|致电|传真|傳真|座机|热线|来电|拨打)"
    r"[^0-9\n]{0,24}\n?[^0-9\n]{0,4}$",
    re.IGNORECASE | re.ASCII,
)
# Dates, spans of years, decimal fractions, internet addresses.
_OTHER = re.compile(
    r"(?:19|20)[0-9]{2}[-./ ]?[01]?[0-9][-./ ]?[0-3]?[0-9]|[0-9]{4} ?- ?[0-9]{4}|[0-9]+\.[0-9]+"
    r"|[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?:/[0-9]{1,2})?"
)


def _international(match: re.Match[str]) -> int:
    number = _number(match)
    digits = _digits(number).removeprefix("00")
    country = _COUNTRY.match(digits)
    groups = re.findall("[0-9]+", number)
    # A column of single figures behind a plus is no number of anybody.
    single = sum(len(group) == 1 for group in groups[1:])
    other = set(digits) <= set("01") or _OTHER.fullmatch(number.strip("+("))
    likely = 8 <= len(digits) <= 15 and len(groups) <= 7 and single <= 2 and not other
    return match.end() if country and likely else 0


def _trunk(match: re.Match[str]) -> int:
    digits = _digits(_number(match))
    # 0010 0011 0100 are binary figures.
    return match.end() if 9 <= len(digits) <= 11 and not set(digits) <= set("01") else 0


def _announced(match: re.Match[str]) -> int:
    other = _OTHER.fullmatch(match.group()) or not 7 <= len(_digits(_number(match))) <= 15
    return match.end() if not other and _WORDS.search(before(match, 40, lines=2)) else 0


def _number(match: re.Match[str]) -> str:
    """The match without its extension."""
    return re.split("[xe转轉分]", match.group())[0]


def _digits(text: str) -> str:
    return re.sub("[^0-9]", "", text)


RULES = (
    Rule("phone", _CHINA_MOBILE, numbers(b"+(018", shortest=2)),
    Rule("phone", _CHINA_LANDLINE, numbers(b"+(08", shortest=2)),
    Rule("phone", _HONG_KONG, numbers(b"+(08", shortest=3)),
    Rule("phone", _TAIWAN, numbers(b"(0", shortest=2)),
    Rule("phone", _NORTH_AMERICA, numbers(b"+(0123456789", longest=3)),
    Rule("phone", _INTERNATIONAL, numbers(b"+(0", shortest=2), _international),
    Rule("phone", _TRUNK, numbers(b"(0", shortest=3), _trunk),
    Rule("phone", _ANNOUNCED, announced_numbers, _announced),
)


def country_digits(text: str) -> int:
    """How many digits at the beginning of a folded number are the country code and the zeros before it."""
    code = re.match(rf"\(?(?:\+|(?P<zeros>00))(?P<country>{_COUNTRY.pattern})", text)
    return len(code["country"]) + len(code["zeros"] or "") if code else 0
