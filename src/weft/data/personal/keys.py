"""Secrets: private keys, tokens of well-known services, and values assigned to a name like a key's."""

from __future__ import annotations

import re

from weft.data.personal.checksums import entropy
from weft.data.personal.marks import blocks, tokens, values
from weft.data.personal.rule import Rule, before

_LABEL = r"(?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
# Up to the next hyphens only, so that many beginnings without an end cost no more than one. Not possessive:
# before Python 3.11.5 a possessive repeat of a group with a look-ahead matches wrongly.
_BLOCK = re.compile(
    rf"-----BEGIN {_LABEL}(?:(?:(?!-----)[\s\S]){{0,16000}}-----END {_LABEL}"
    r"|(?:\s*[A-Za-z0-9+/=]{40,80}){0,200})"
)

_TOKEN = re.compile(
    r"(?<![0-9A-Za-z_-])(?:"
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}"  # AWS
    r"|LTAI[A-Za-z0-9]{12,24}|AKID[A-Za-z0-9]{28,40}"  # Aliyun, Tencent
    r"|AIza[0-9A-Za-z_-]{35}"  # Google
    r"|gh[pousr]_[A-Za-z0-9]{30,255}|github_pat_[A-Za-z0-9_]{22,255}|glpat-[0-9A-Za-z_-]{20,64}"
    r"|xox[abeoprs]-[0-9A-Za-z-]{12,255}"  # Slack
    r"|(?:sk|rk|pk)_(?:live|test)_[0-9A-Za-z]{16,128}"  # Stripe
    r"|sk-[A-Za-z0-9_-]{20,255}"  # OpenAI, Anthropic and those who took over their form
    r"|hf_[A-Za-z0-9]{30,64}|npm_[A-Za-z0-9]{36}"
    r"|eyJ[A-Za-z0-9_-]{13,4096}\.eyJ[A-Za-z0-9_-]{8,8192}\.[A-Za-z0-9_-]{8,2048}"  # JSON Web Token
    r")(?![0-9A-Za-z_-])"
)
_FIRST_RUN = re.compile(r"[0-9A-Za-z_-]+")

_VALUE = re.compile(r"(?<![0-9A-Za-z_+/-])[0-9A-Za-z_+/-]{16,200}={0,2}(?![0-9A-Za-z_+/=-])")
_ASSIGNED = re.compile(
    r"(?:(?:api|access|secret|private|auth|client|app|account|encryption|signing|service)[_ -]?"
    r"(?:access[_ -]?)?keys?|(?<![a-z])tokens?|secrets?|passw(?:or)?d|credentials?)(?:[_ -]?id)?[\"'`\]]{0,2}"
    r"[ \t]{0,3}(?::=|=>|[:=])[ \t]{0,3}[\"'`(]{0,2}$"
    r"|(?:密钥|密匙|密码|口令|令牌|私钥)[\"']?[ \t]{0,2}(?:[:=]|是|为){1,2}[ \t]{0,2}[\"'`]?$",
    re.IGNORECASE | re.ASCII,
)
_MIN_ENTROPY = 3.2
"""Bits a character: 16 random hexadecimal digits have 3.2 on average, words of a name in one case about 3."""


def _token(match: re.Match[str]) -> int:
    first = _FIRST_RUN.match(match.group())
    digits = first is not None and any(letter.isdigit() for letter in first.group())
    # sk-xxxxxxxx stands in manuals.
    return match.end() if digits and entropy(match.group()) > 2.5 else 0


def _value(match: re.Match[str]) -> int:
    text = match.group()
    digits = sum(letter.isdigit() for letter in text)
    if digits < 3 or digits == len(text) or text.count("/") > len(text) // 10 + 1:
        return 0
    return match.end() if _ASSIGNED.search(before(match, 48)) and entropy(text) >= _MIN_ENTROPY else 0


RULES = (
    Rule("key", _BLOCK, blocks),
    Rule("key", _TOKEN, tokens, _token),
    Rule("key", _VALUE, values, _value),
)
