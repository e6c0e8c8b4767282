"""Numbers that an office or a bank gave to one person: resident ids, cards, accounts, passports, plates."""

from __future__ import annotations

import datetime
import re

from weft.data.personal.checksums import iban_valid, luhn_valid, resident_check
from weft.data.personal.fold import PROVINCES
from weft.data.personal.marks import accounts, lettered_numbers, numbers, plates
from weft.data.personal.rule import AFTER_NUMBER, BEFORE_NUMBER, WORD, Rule, before, digits_of

# GB/T 2260, with Taiwan, Hong Kong, Macau and the code of residents from there.
_PROVINCE_CODES = re.compile(r"1[1-5]|2[123]|3[1-7]|4[1-6]|5[0-4]|6[1-5]|71|8[123]")
_RESIDENT = re.compile(
    rf"(?<!{WORD})(?<![0-9]\.)[1-8][0-9]{{5}}[ -]?(?:18|19|20)[0-9]{{6}}[ -]?[0-9]{{3}}[0-9Xx]"
    rf"(?!{WORD})(?!\.[0-9])"
)
_OLD_RESIDENT = re.compile(rf"{BEFORE_NUMBER}[1-8][0-9]{{14}}{AFTER_NUMBER}")
_RESIDENT_WORDS = re.compile(r"身份证|證件|证件|居民|公民|\bID\b|identity|resident", re.IGNORECASE | re.ASCII)

_CARD = re.compile(
    rf"{BEFORE_NUMBER}(?<![0-9]/)(?:[0-9]{{12,19}}"
    r"|[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{1,4}(?:\1[0-9]{1,3})?"
    r"|3[47][0-9]{2}[ -][0-9]{6}[ -][0-9]{5}|3[0689][0-9]{2}[ -][0-9]{6}[ -][0-9]{4}"
    rf"|62[0-9]{{4}}[ -][0-9]{{10,13}}){AFTER_NUMBER}(?!/[0-9])"
)
# Issuers by ISO/IEC 7812 with the lengths that they use.
_ISSUED = re.compile(
    r"4[0-9]{15}|4[0-9]{18}|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"
    r"|3[47][0-9]{13}|35(?:2[89]|[3-8][0-9])[0-9]{12}|62[0-9]{14,17}|6(?:011|5[0-9]{2}|4[4-9][0-9])[0-9]{12}"
)
_CARD_WORDS = re.compile(
    r"\bcards?\b|\bcc\b|visa|master|maestro|amex|diners|credit|debit|银行卡|信用卡|储蓄卡|借记卡|卡号|账号|帐号|账户|帳號|卡片",
    re.IGNORECASE | re.ASCII,
)

_SSN = re.compile(
    rf"{BEFORE_NUMBER}(?<![0-9]/)(?!000|666|9)[0-9]{{3}}([- ]?)(?!00)[0-9]{{2}}\1(?!0000)[0-9]{{4}}"
    rf"{AFTER_NUMBER}"
)
_SSN_WORDS = re.compile(r"\bssn\b|social security|社会安全|社会保障号|社保号", re.IGNORECASE | re.ASCII)

_PASSPORT = re.compile(rf"(?<!{WORD})[A-Z]{{0,2}}[0-9]{{7,9}}(?!{WORD})(?![.,][0-9])")
_PASSPORT_WORDS = re.compile(r"passport|护照|護照|通行证|通行證", re.IGNORECASE | re.ASCII)

_LETTER = "A-HJ-NP-Z"
_PLATE = re.compile(
    rf"[{PROVINCES}][{_LETTER}][·. -]?(?:[A-HJK][{_LETTER}0-9][0-9]{{4}}|[0-9]{{5}}[A-HJK]"
    rf"|[{_LETTER}0-9]{{4}}[{_LETTER}0-9挂学警港澳])(?!{WORD})"
)

_IBAN = re.compile(
    rf"(?<!{WORD})(?:[A-Z]{{2}}[0-9]{{2}}(?: ?[A-Z0-9]){{11,30}}|[a-z]{{2}}[0-9]{{2}}[a-z0-9]{{11,30}})"
)
# From the IBAN registry of SWIFT.
_IBAN_LENGTHS = {
    country: length
    for length, countries in (
        (15, "NO"),
        (16, "BE"),
        (18, "DK FI FK FO GL NL SD"),
        (19, "MK SI"),
        (20, "AT BA EE KZ LT LU MN XK"),
        (21, "CH HR LI LV"),
        (22, "BG BH CR DE GB GE IE ME RS VA"),
        (23, "AE GI IL IQ OM SO TL"),
        (24, "AD CZ ES MD PK RO SA SE SK TN VG"),
        (25, "LY PT ST"),
        (26, "IS TR"),
        (27, "BI DJ FR GR IT MC MR SM"),
        (28, "AL AZ BY CY DO GT HN HU LB NI PL SV"),
        (29, "BR EG PS QA UA"),
        (30, "JO KW MU YE"),
        (31, "MT SC"),
        (32, "LC"),
        (33, "RU"),
    )
    for country in countries.split()
}


def _resident(match: re.Match[str]) -> int:
    text = re.sub("[ -]", "", match.group())
    if not _PROVINCE_CODES.match(text) or not _is_date(text[6:14]):
        return 0
    return match.end() if resident_check(text[:17]) == text[17].upper() else 0


def _old_resident(match: re.Match[str]) -> int:
    text = match.group()
    known = _PROVINCE_CODES.match(text) and _is_date("19" + text[6:12])
    return match.end() if known and _RESIDENT_WORDS.search(before(match, 24)) else 0


def _is_date(text: str) -> bool:
    try:
        datetime.date(int(text[:4]), int(text[4:6]), int(text[6:8]))
    except ValueError:
        return False
    return True


def _card(match: re.Match[str]) -> int:
    digits = digits_of(match)
    if not 12 <= len(digits) <= 19 or len(set(digits)) == 1 or not luhn_valid(digits):
        return 0
    grouped = match.group(1) is not None and len(digits) >= 15 and digits[0] in "23456789"
    if grouped or _ISSUED.fullmatch(digits) or _CARD_WORDS.search(before(match, 32)):
        return match.end()
    return 0


def _ssn(match: re.Match[str]) -> int:
    # Hyphens are the written form; other forms are nine digits like any.
    return match.end() if match.group(1) == "-" or _SSN_WORDS.search(before(match, 32)) else 0


def _passport(match: re.Match[str]) -> int:
    return match.end() if _PASSPORT_WORDS.search(before(match, 32)) else 0


def _plate(match: re.Match[str]) -> int:
    return match.end() if len(digits_of(match)) >= 3 else 0


def _iban(match: re.Match[str]) -> int:
    length = _IBAN_LENGTHS.get(match.group()[:2].upper(), 0)
    letters = [place for place, letter in enumerate(match.group()) if letter != " "]
    if not length or len(letters) < length:
        return 0
    end = match.start() + letters[length - 1] + 1
    if re.match(WORD, match.string[end : end + 1]):
        return 0
    account = match.string[match.start() : end].replace(" ", "")
    return end if iban_valid(account) else 0


RULES = (
    Rule("resident_id", _RESIDENT, numbers(b"12345678", shortest=6), _resident),
    Rule("bank_card", _CARD, numbers(b"0123456789", shortest=4), _card),
    Rule("us_ssn", _SSN, numbers(b"012345678", shortest=3, longest=9), _ssn),
    Rule("passport", _PASSPORT, lettered_numbers, _passport),
    Rule("plate", _PLATE, plates, _plate),
    Rule("iban", _IBAN, accounts, _iban),
)
OLD_RESIDENT_RULE = Rule("resident_id", _OLD_RESIDENT, numbers(b"12345678", shortest=15), _old_resident)
