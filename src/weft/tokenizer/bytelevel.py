"""The alphabet of byte-level BPE: one printable character for each of the 256 bytes (GPT-2's table)."""

from __future__ import annotations

_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))


def _alphabet() -> dict[int, str]:
    table = {byte: chr(byte) for byte in _PRINTABLE}
    others = (byte for byte in range(256) if byte not in table)
    table.update((byte, chr(256 + rank)) for rank, byte in enumerate(others))
    return table


CHARACTER_OF_BYTE = _alphabet()
BYTE_OF_CHARACTER = {character: byte for byte, character in CHARACTER_OF_BYTE.items()}


def to_bytes(token: str) -> bytes | None:
    """The bytes that a token of a byte-level vocabulary stands for; None when it is not of the alphabet."""
    try:
        return bytes([BYTE_OF_CHARACTER[character] for character in token])
    except KeyError:
        return None
