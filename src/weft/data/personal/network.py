"""Addresses in networks: mail, credentials in URLs, internet and hardware addresses."""

from __future__ import annotations

import ipaddress
import re

from weft.data.personal.marks import colons, credentials, dotted, mailboxes, pairs
from weft.data.personal.rule import WORD, Rule, before

_EMAIL = re.compile(
    rf"(?<!{WORD})(?<!{WORD}[._%+-])[A-Za-z0-9][A-Za-z0-9._%+-]{{0,63}}@"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,5}[A-Za-z]{2,24}(?!_?[A-Za-z0-9])"
)
_FILES = (".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".css", ".js", ".html")

_CREDENTIALS = re.compile(r"(?<=://)[^\s/@:?#<>\"']{1,64}:[^\s/@<>\"']{1,128}(?=@[A-Za-z0-9\[])")
_IN_URL = re.compile(r"://[^\s/@]*:[^\s/@]*$")
_PLACEHOLDER = re.compile(
    r"(?:pass|passw|password|passwd|pwd|secret|token|x+|\*+|\.+)|.*[${}%(].*|密码", re.IGNORECASE | re.ASCII
)

_IPV4 = re.compile(r"(?<![0-9A-Za-z_.-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9A-Za-z_])(?![.-][0-9A-Za-z])")
_VERSION = re.compile(
    r"(?:\bv|ver\.?|versions?|release|rev|build|section|chapter|sec|figure|fig|table|版本|版|第|章|节|條|条|图|表|§)"
    r"[ .:=\"'号为是]{0,3}$",
    re.IGNORECASE | re.ASCII,
)
_NETWORK = re.compile(
    r"\bIPs?\b|\bIPv4|addr|host|server|dns|ping|网址|地址|服务器|主机|@$|//$", re.IGNORECASE | re.ASCII
)
_IPV6 = re.compile(
    r"(?<![0-9A-Za-z:._])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![0-9A-Za-z:_])(?!\.[0-9])"
)
_MAC = re.compile(
    r"(?<![0-9A-Za-z:_-])[0-9A-Fa-f]{2}([:-])[0-9A-Fa-f]{2}(?:\1[0-9A-Fa-f]{2}){4}(?![0-9A-Za-z_])(?![:-][0-9A-Fa-f])"
)


def _email(match: re.Match[str]) -> int:
    name, _, host = match.group().partition("@")
    # git@ is a service, icon@2x.png a picture, and (1..@size.width) a range.
    other = name == "git" or ".." in name or name.endswith(".") or host.lower().endswith(_FILES)
    return 0 if other or _IN_URL.search(before(match, 80)) else match.end()


def _credentials(match: re.Match[str]) -> int:
    return 0 if _PLACEHOLDER.fullmatch(match.group().partition(":")[2]) else match.end()


def _ipv4(match: re.Match[str]) -> int:
    address = _parsed(match.group())
    personal = address is not None and address.is_global and not address.is_multicast
    return _ipv4_written(match) if personal else 0


def _ipv4_private(match: re.Match[str]) -> int:
    return _ipv4_written(match) if _parsed(match.group()) is not None else 0


def _ipv4_written(match: re.Match[str]) -> int:
    context = before(match, 16)
    if _VERSION.search(context):
        return 0
    # 2.0.1.0 is more often a version or a section.
    sizes = [len(part) for part in match.group().split(".")]
    sure = max(sizes) == 3 or sum(size >= 2 for size in sizes) >= 2
    return match.end() if sure or _NETWORK.search(context) else 0


def _ipv6(match: re.Match[str]) -> int:
    address = _parsed(match.group())
    if address is None or not address.is_global or address.is_multicast:
        return 0
    # 2000::/3 is all that is given to anybody so far; eight groups are no accident whatever they say.
    whole = match.group().count(":") == 7 and "::" not in match.group()
    return _ipv6_written(match) if whole or int(address) >> 125 == 1 else 0


def _ipv6_private(match: re.Match[str]) -> int:
    address = _parsed(match.group())
    if address is None:
        return 0
    if address.is_loopback:
        return match.end()
    known = address.is_link_local or int(address) >> 121 == 0x7E or int(address) >> 125 == 1
    return _ipv6_written(match) if known else 0


def _ipv6_written(match: re.Match[str]) -> int:
    groups = [group for group in match.group().split(":") if group]
    return match.end() if len(groups) >= 3 and max(map(len, groups)) >= 3 else 0


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _mac(match: re.Match[str]) -> int:
    pairs = match.group().lower().replace("-", ":").split(":")
    # Twelve digits between hyphens may be a date and a time; one pair again and again is a placeholder.
    number = match.group(1) == "-" and match.group().replace("-", "").isdigit()
    return 0 if number or len(set(pairs)) == 1 else match.end()


RULES = (
    Rule("email", _EMAIL, mailboxes, _email),
    Rule("url_credentials", _CREDENTIALS, credentials, _credentials),
    Rule("mac", _MAC, pairs, _mac),
)
PUBLIC_RULES = (Rule("ip", _IPV4, dotted, _ipv4), Rule("ip", _IPV6, colons, _ipv6))
PRIVATE_RULES = (Rule("ip", _IPV4, dotted, _ipv4_private), Rule("ip", _IPV6, colons, _ipv6_private))
