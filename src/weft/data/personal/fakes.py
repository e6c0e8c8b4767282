"""Fakes of the same form as the value that they replace: equal values get equal fakes, and none is real.

Mail goes to example.com (RFC 2606), telephone numbers begin with 555, internet addresses lie in reserved and
documentation ranges (RFC 1112, RFC 3849), check digits are wrong, and codes of provinces and issuers are
such as nobody has.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from weft.core.errors import ConfigError
from weft.data.personal.checksums import luhn_valid, resident_check
from weft.data.personal.fold import PROVINCES, fold
from weft.data.personal.phones import country_digits

_MIN_SECRET = 16


def load_secret(file: str | None) -> bytes:
    """The content of a file, or 32 new random bytes; ConfigError when the file cannot serve."""
    if file is None:
        return secrets.token_bytes(32)
    try:
        secret = Path(file).read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"personal.secret_file = {file} cannot be read ({error.strerror}); give a file of random bytes."
        ) from error
    if len(secret) < _MIN_SECRET:
        raise ConfigError(
            f"personal.secret_file = {file} holds {len(secret)} bytes; "
            f"give at least {_MIN_SECRET} random ones."
        )
    return secret


class Fakes:
    """Fakes under one secret. Who does not have it cannot test which value a fake stands for."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def fake(self, kind: str, text: str) -> str:
        """What stands for ``text``; forms of one value that differ in separators and case agree in digits."""
        value = re.sub(r"[\s().·/-]", "", fold(text)).lower()
        digest = hmac.digest(self._secret, f"{kind}\0{value}".encode("utf-8", "surrogatepass"), "sha256")
        make = _MAKERS.get(kind)
        return make(text, digest) if make else f"{kind.upper()} {digest.hex()[:8]}"


def _email(text: str, digest: bytes) -> str:
    return f"user-{digest.hex()[:10]}@example.com"


def _credentials(text: str, digest: bytes) -> str:
    return f"user:EXAMPLE{digest.hex()[:10]}"


def _key(text: str, digest: bytes) -> str:
    if text.startswith("-----BEGIN"):
        first, last = re.findall("-----(?:BEGIN|END) [A-Z0-9 ]+-----", text + "-----END KEY-----")[:2]
        return f"{first}\nEXAMPLE{digest.hex()}\n{last}"
    return ("EXAMPLE" + digest.hex() * (len(text) // 64 + 1))[: len(text)]


def _phone(text: str, digest: bytes) -> str:
    return _with_digits(text, "555" + _decimal(digest), country_digits(fold(text)))


def _resident(text: str, digest: bytes) -> str:
    stream = _decimal(digest)
    born = f"19{50 + digest[0] % 50}{1 + digest[1] % 12:02}{1 + digest[2] % 28:02}"
    if sum(letter.isalnum() for letter in text) == 15:
        return _with_digits(text, f"99{stream[:4]}{born[2:]}{stream[4:7]}")
    body = f"99{stream[:4]}{born}{stream[4:7]}"
    wrong = "0" if resident_check(body) != "0" else "1"
    return _with_digits(re.sub("[Xx]", "0", fold(text)), body + wrong)


def _card(text: str, digest: bytes) -> str:
    count = len(re.findall("[0-9]", fold(text)))
    digits = "0" + _decimal(digest)[: count - 1]
    if luhn_valid(digits):
        digits = digits[:-1] + str((int(digits[-1]) + 1) % 10)
    return _with_digits(text, digits)


def _zeros(text: str, digest: bytes) -> str:
    return _with_digits(re.sub("[A-Z]", "X", fold(text)), "000" + _decimal(digest))


def _plate(text: str, digest: bytes) -> str:
    # No plate has the letter I, which looks like a figure.
    tail = re.sub("[A-Z](?=.)", "X", text[2:])
    return f"{PROVINCES[digest[0] % len(PROVINCES)]}I{_with_digits(tail, _decimal(digest))}"


def _iban(text: str, digest: bytes) -> str:
    # Check digits run from 02 to 98.
    return text[:2] + _with_digits(re.sub("[A-Z]", "X", text[2:]), "00" + _decimal(digest))


def _ip(text: str, digest: bytes) -> str:
    if ":" in fold(text):
        return str(ipaddress.IPv6Address((0x20010DB8 << 96) | int.from_bytes(digest[:12])))
    return str(ipaddress.IPv4Address((0xF << 28) | int.from_bytes(digest[:4]) >> 4))


def _mac(text: str, digest: bytes) -> str:
    # The second bit says that no maker gave this address.
    return ("-" if "-" in fold(text) else ":").join(f"{byte:02x}" for byte in b"\x02\x00\x00" + digest[:3])


def _address(text: str, digest: bytes) -> str:
    number = 1 + int.from_bytes(digest[:4]) % 99999
    chinese = any("\u4e00" <= letter <= "\u9fff" for letter in text)
    return f"示例市示例区示例路{number}号" if chinese else f"{number} Example Street"


_MAKERS: dict[str, Callable[[str, bytes], str]] = {
    "email": _email,
    "url_credentials": _credentials,
    "key": _key,
    "phone": _phone,
    "resident_id": _resident,
    "bank_card": _card,
    "us_ssn": _zeros,
    "passport": _zeros,
    "plate": _plate,
    "iban": _iban,
    "ip": _ip,
    "mac": _mac,
    "address": _address,
}


def _decimal(digest: bytes) -> str:
    return f"{int.from_bytes(digest) % 10**60:060}"


def _with_digits(text: str, digits: str, after: int = 0) -> str:
    """``text`` with its digits behind the first ``after`` replaced in turn; full-width ones stay so."""
    supply: Iterator[str] = iter(digits)
    made, seen = [], 0
    for letter in text:
        if fold(letter) not in "0123456789":
            made.append(letter)
            continue
        seen += 1
        new = letter if seen <= after else next(supply)
        made.append(new if letter.isascii() or seen <= after else chr(ord(new) + 0xFEE0))
    return "".join(made)
