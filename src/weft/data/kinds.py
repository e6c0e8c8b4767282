"""What a file is, by its suffix: code in a language, text, JSON records, or nothing that Weft reads."""

from __future__ import annotations

from pathlib import PurePath

TEXT, CODE, LINES, JSON = "text", "code", "jsonl", "json"

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
_RECORDS = {"jsonl": LINES, "ndjson": LINES, "json": JSON}
_BINARY = {
    "7z", "a", "avi", "bin", "bmp", "bz2", "class", "dat", "db", "dll", "dylib", "eot", "exe", "flac",
    "gif", "gz", "ico", "jar", "jpeg", "jpg", "lib", "mov", "mp3", "mp4", "npy", "npz", "o", "obj",
    "ogg", "otf", "pdf", "pickle", "pkl", "png", "pt", "pyc", "pyd", "pyo", "rar", "so", "sqlite",
    "tar", "tgz", "tif", "tiff", "ttf", "wav", "webm", "webp", "whl", "woff", "woff2", "xz", "zip", "zst",
}  # fmt: skip


def classify(path: PurePath, *, given: bool = False) -> tuple[str | None, str | None, str | None]:
    """``(kind, language, reason)``: a reason to drop it when its name already tells.

    A file that the user named (``given``) is read as text whatever its suffix.
    """
    suffix = path.suffix[1:].lower()
    if suffix in _CODE:
        return CODE, _CODE[suffix], None
    if suffix in _RECORDS:
        return _RECORDS[suffix], None, None
    if suffix in _TEXT or given:
        return TEXT, None, None
    return None, None, "binary" if suffix in _BINARY else "unsupported"
