"""What a file is, by its suffixes: its kind, the language of code, and how it is compressed."""

from __future__ import annotations

from pathlib import PurePath

TEXT, CODE, LINES, JSON = "text", "code", "jsonl", "json"
CSV, TSV, PARQUET = "csv", "tsv", "parquet"
HTML, WARC, EPUB, PDF = "html", "warc", "epub", "pdf"
ZIP, TAR = "zip", "tar"

ARCHIVES = frozenset({ZIP, TAR})
"""Kinds whose members are files of their own."""
WHOLE = frozenset({TEXT, CODE, JSON, HTML, EPUB, PDF})
"""Kinds that are read as a whole, and so have a limit of size; the others are read as a stream."""

GZIP, ZSTD, BZIP2, XZ = "gzip", "zstd", "bzip2", "xz"

_CODE = {
    "bash": "bash", "c": "c", "cc": "c++", "cfg": "ini", "clj": "clojure", "cpp": "c++", "cs": "c#",
    "css": "css", "cu": "cuda", "cxx": "c++", "dart": "dart", "el": "lisp", "erl": "erlang",
    "ex": "elixir", "f90": "fortran", "go": "go", "h": "c", "hh": "c++", "hpp": "c++", "hs": "haskell",
    "ini": "ini", "java": "java", "jl": "julia", "js": "javascript", "jsx": "javascript", "kt": "kotlin",
    "lisp": "lisp", "lua": "lua", "m": "objective-c", "ml": "ocaml", "nim": "nim", "php": "php",
    "pl": "perl", "pm": "perl", "proto": "protobuf", "ps1": "powershell", "py": "python",
    "pyi": "python", "pyx": "cython", "r": "r", "rb": "ruby", "rs": "rust", "s": "assembly",
    "scala": "scala", "scm": "scheme", "sh": "bash", "sql": "sql", "swift": "swift", "tcl": "tcl",
    "toml": "toml", "ts": "typescript", "tsx": "typescript", "v": "verilog", "vim": "vim",
    "yaml": "yaml", "yml": "yaml", "zig": "zig", "zsh": "bash",
}  # fmt: skip
_TEXT = {"", "adoc", "asc", "log", "markdown", "md", "org", "rst", "srt", "tex", "text", "texi", "txt"}
_FORMATS = {
    "jsonl": LINES, "ndjson": LINES, "json": JSON, "csv": CSV, "tsv": TSV, "parquet": PARQUET, "pq": PARQUET,
    "html": HTML, "htm": HTML, "xhtml": HTML, "warc": WARC, "epub": EPUB, "pdf": PDF, "zip": ZIP, "tar": TAR,
}  # fmt: skip
_COMPRESSED = {"gz": GZIP, "zst": ZSTD, "zstd": ZSTD, "bz2": BZIP2, "xz": XZ}
_TARS = {"tgz": GZIP, "tzst": ZSTD, "tbz": BZIP2, "tbz2": BZIP2, "txz": XZ}
_BINARY = {
    "7z", "a", "avi", "bin", "bmp", "class", "dat", "db", "dll", "dylib", "eot", "exe", "flac", "gif", "ico",
    "jar", "jpeg", "jpg", "lib", "mov", "mp3", "mp4", "npy", "npz", "o", "obj", "ogg", "otf", "pickle",
    "pkl", "png", "pt", "pyc", "pyd", "pyo", "rar", "so", "sqlite", "tif", "tiff", "ttf", "wav", "webm",
    "webp", "whl", "woff", "woff2",
}  # fmt: skip


def classify(path: PurePath, *, given: bool = False) -> tuple[str | None, str | None, str | None]:
    """``(kind, language, reason)``: a reason to drop it when its name already tells.

    Of a compressed file it is the kind of what is inside. A file that the user named (``given``) is read
    as text whatever its suffix.
    """
    suffix = path.suffix[1:].lower()
    if suffix in _COMPRESSED:
        suffix = PurePath(path.stem).suffix[1:].lower()
        if suffix in _COMPRESSED or suffix in _TARS or suffix == ZIP:
            return None, None, "nested_archive"
    if suffix in _CODE:
        return CODE, _CODE[suffix], None
    if suffix in _FORMATS:
        return _FORMATS[suffix], None, None
    if suffix in _TARS:
        return TAR, None, None
    if suffix in _TEXT or given:
        return TEXT, None, None
    return None, None, "binary" if suffix in _BINARY else "unsupported"


def compression(path: PurePath) -> str | None:
    """How the file is compressed as a whole, by its last suffix; None when it is not."""
    suffix = path.suffix[1:].lower()
    return _COMPRESSED.get(suffix) or _TARS.get(suffix)


def uncompressed_name(name: str) -> str:
    """The name without the suffix of its compression: ``notes.txt`` of ``notes.txt.gz``."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and suffix.lower() in _COMPRESSED else name
