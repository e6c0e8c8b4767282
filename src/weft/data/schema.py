"""Names of columns, splits and files of the data floor, said once."""

from __future__ import annotations

SPLITS = ("train", "valid", "test")

ID = "id"
"""Content hash of the normalised text, 32 hexadecimal digits (xxh3, 128 bits); never a row number."""
TEXT = "text"
SOURCE = "source"
"""Where the document came from: the path below its source, and ``#n`` for a record of a JSON file."""
KIND = "kind"
"""``text`` or ``code``: code is never rewritten beyond line ends."""
LANGUAGE = "language"
"""Of code the name of the language, of text its ISO code (``zh``, ``en``; ``und`` where it is not known)."""
BYTES = "bytes"
"""UTF-8 bytes of the text (of the file, where the text was never read)."""
REASON = "reason"
"""Why a document was dropped; null while it is kept."""
VALUE = "value"
"""The figure that broke the rule, as text."""
EXACT, NEAR = "exact_duplicate", "near_duplicate"
"""Reasons whose value names another document: the source of the kept one (its id, where that was kept in an
earlier folder), and the id of the kept one."""
PERSONAL = "personal"
"""A struct of the number of spans of each kind; null where the document has no text."""
TOKENS = "tokens"

DOCUMENTS, TOKENIZER, SHARDS, DROPPED = "documents", "tokenizer", "shards", "dropped"
"""Folders that ``weft data`` makes."""
