"""Weft: from raw text to a served language model, parallel at every stage.

``weft.load(path)`` opens a trained checkpoint for use; everything else is reached through its floor
(``weft.data``, ``weft.train``, ...). Importing this module imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.core.version import __version__

if TYPE_CHECKING:
    from weft.api import load as load

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    # Resolved late so that `import weft` and `weft --help` stay free of torch.
    if name == "load":
        from weft.api import load

        return load
    raise AttributeError(f"module 'weft' has no attribute {name!r}")
