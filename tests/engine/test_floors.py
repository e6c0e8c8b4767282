"""What the plain logic of the engine is built on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import weft.engine

_ALONE = """
import sys, types
package = types.ModuleType("weft.engine")
package.__path__ = [{folder!r}]
sys.modules["weft.engine"] = package
import weft.engine.{module}
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize(
    "module", ["scheduler", "blocks", "speculative", "search", "sequence", "grammar", "params", "remainders"]
)
def test_plain_logic_needs_no_torch(module):
    code = _ALONE.format(folder=str(Path(weft.engine.__file__).parent), module=module)
    subprocess.run([sys.executable, "-c", code], check=True)
