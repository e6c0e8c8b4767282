"""Postal addresses: Chinese ones from the town down to the number, English ones from the number up."""

from __future__ import annotations

import re

from weft.data.personal.marks import house_numbers, street_numbers, towns
from weft.data.personal.rule import WORD, Rule

# Characters of place names: Han without the little words that stand before an address.
_NAME = r"(?![在是的了我你您他她它于为和与及至从往到住址寄这那个们])[\u4e00-\u9fff]"
_NUMERAL = r"(?:[0-9]{1,5}|[〇零一二三四五六七八九十百]{1,5})"
_CHINESE = re.compile(
    rf"(?P<region>(?:(?:{_NAME}){{2,8}}?(?:省|自治区|特别行政区))?(?:(?:{_NAME}){{2,8}}?(?:市|自治州|盟|地区))?"
    rf"(?:(?:{_NAME}){{1,8}}?(?:区|县|旗|市))?(?:(?:{_NAME}){{1,8}}?(?:镇|乡|街道|村|社区))?)"
    rf"(?:{_NAME}|[0-9A-Z]){{1,10}}?(?:路|街|道|巷|胡同|弄|里)(?:[东南西北中]?(?:[一二三四五]?段))?"
    rf"(?:[0-9]{{1,5}}弄)?{_NUMERAL}(?:[-之][0-9]{{1,4}})?号"
    r"(?P<house>(?:[\u4e00-\u9fff]{0,8}?(?:[0-9]{1,4}|[A-Z]|[甲乙丙丁])(?:号楼|号院|栋|幢|座|单元|室|层|楼|房|户)){0,4})"
)

_WAY = r"Street|Avenue|Road|Boulevard|Lane|Drive|Parkway|Highway|Terrace|Crescent"
_SHORT_WAY = r"St|Ave|Rd|Blvd|Ln|Dr|Pkwy|Hwy"
_LOOSE_WAY = r"Court|Ct|Place|Pl|Way|Square|Sq|Circle|Cir|Park|Trail|Row|Hill"
_STATE = (
    r"(?:A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|P[AR]|RI|S[CD]|T[NX]|UT"
    r"|V[AIT]|W[AIVY])"
)
_POST_CODE = r"[0-9]{5}(?:-[0-9]{4})?"
_ENGLISH = re.compile(
    rf"(?<!{WORD})(?<!{WORD}[.,:/-])(?P<number>[0-9]{{1,5}})[A-Za-z]? (?!Miles? |Points )"
    r"(?:[NSEW]\.? |(?:North|South|East|West) )?"
    rf"(?:(?:[A-Z][A-Za-z'’.]{{0,20}}|[0-9]{{1,3}}(?:st|nd|rd|th)) ){{1,4}}?"
    rf"(?:(?:{_WAY})(?!{WORD})|(?:{_SHORT_WAY})(?!{WORD})\.?|(?P<loose>{_LOOSE_WAY})(?!{WORD}))"
    r"(?P<tail>(?:,? (?:Apt|Apartment|Suite|Ste|Unit|Floor|#)\.? ?[A-Z0-9-]{1,6}(?![0-9A-Za-z]))?"
    rf"(?:, ?(?:[A-Z][A-Za-z.'-]{{1,20}} ?){{1,3}}(?:,? ?{_STATE},? {_POST_CODE}(?![0-9A-Za-z]))?)?)"
)
_TOWN = re.compile(
    rf"(?<!{WORD})[A-Z][a-z.]{{1,20}}(?:[ -][A-Z][a-z]{{1,20}}){{0,2}},? {_STATE} {_POST_CODE}"
    r"(?![0-9A-Za-z-])"
)


def _chinese(match: re.Match[str]) -> int:
    return match.end() if match["region"] or match["house"] else 0


def _english(match: re.Match[str]) -> int:
    if match["tail"]:
        return match.end()
    # "1999 Wall Street", "9 Supreme Court": a year, a count.
    year = 1500 <= int(match["number"]) <= 2100
    return 0 if year or match["loose"] else match.end()


RULES = (
    Rule("address", _CHINESE, house_numbers, _chinese),
    Rule("address", _ENGLISH, street_numbers, _english),
    Rule("address", _TOWN, towns),
)
