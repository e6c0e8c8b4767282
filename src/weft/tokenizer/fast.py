"""A fast encoder behind a parity check: fastokens, used only where it gives the ids of ``tokenizers``.

The library is optional. It is compared with the plain encoder on a fixed set of awkward texts when it is
opened, and on one text of every batch afterwards; :class:`ParityError` says that it went wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

try:
    import fastokens
except ImportError:
    fastokens = None

Ids = npt.NDArray[np.uint32]
Ends = npt.NDArray[np.int64]

PROBES = (
    "",
    " ",
    "The quick brown fox's 3,141 jumps; don't WE'LL they're.\n\n\nNext\tline  \r\n end   ",
    "经纬交织，数据并行。2024年第3季度，ＡＢＣ全角，「引号」……\n　　段落",
    "中文English混排123测试，e-mail：a@b.cn。繁體字與簡體字，日本語カタカナ、한국어 텍스트",
    "def f(x):\n\treturn {**x, 'k': [1, 2.5e-3]}  # 注释\n\n\n    pass\n",
    "👩‍👩‍👧‍👦🏳️‍🌈 é e\u0301 ñ ﬁ Å \u00a0\u200b\u3000\ufeff z̷̢̛ नमस्ते مرحبا שלום",
    "\x00\x01\x7f\u0080\U0010ffff\ud7ff\ue000 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 0000000000000000",
    "https://example.com/a?b=c&d=%20#e <html>&nbsp;</html> \\n \\u4e2d $x^2_{i}$ ~~~ ```",
)


class ParityError(Exception):
    """The fast encoder and the plain one disagree."""


class FastEncoder:
    """fastokens, with the ids of a plain encoder to check itself against."""

    def __init__(self, library: Any, plain: Callable[[Sequence[str]], list[list[int]]]) -> None:
        self._library, self._plain = library, plain

    @classmethod
    def open(
        cls, content: str, plain: Callable[[Sequence[str]], list[list[int]]], special: Sequence[str]
    ) -> FastEncoder | None:
        """The encoder of a tokenizer.json, or None when it cannot be had or is not exact.

        ``plain`` is the reference, ``special`` the spellings of the added tokens.
        """
        if fastokens is None:
            return None
        try:
            made = cls(fastokens.Tokenizer.from_json_str(content), plain)
            for text in (*PROBES, *(f"a{token}b {token}{token}\n" for token in special)):
                made.check([text], *made.encode([text]), 0)
        except Exception:
            # A format it does not know, a pattern it refuses, other ids: the plain encoder serves.
            return None
        return made

    def encode(self, texts: Sequence[str]) -> tuple[Ids, Ends]:
        """All ids [tokens] of ``texts`` and where each text ends in them [texts]."""
        ids, offsets = self._library.encode_batch_flat(list(texts), False, True)
        return np.frombuffer(ids, np.uint32), np.frombuffer(offsets, np.uint64)[1:].astype(np.int64)

    def check(self, texts: Sequence[str], ids: Ids, ends: Ends, index: int) -> None:
        """Compare text ``index`` of an encoded batch with the plain encoder; ParityError if it differs."""
        start = int(ends[index - 1]) if index else 0
        if ids[start : int(ends[index])].tolist() != self._plain([texts[index]])[0]:
            raise ParityError
