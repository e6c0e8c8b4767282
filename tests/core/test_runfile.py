"""Values written into a person's run file."""

import tomllib
from pathlib import Path

import pytest

from weft.core.errors import ConfigError
from weft.core.runfile import write_values

TEXT = """# my run
[data]
path = "data/我的"   # keep

[optimizer]  # rates
learning_rate = 0.1  # guessed
name = "muon"

[train]
steps = 10
"""


def test_a_value_is_replaced_and_the_rest_kept(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(TEXT, encoding="utf-8")
    write_values(file, {"optimizer.learning_rate": 0.02, "train.batch_tokens": 4096, "model.hidden_size": 64})
    text = file.read_text(encoding="utf-8")
    assert "learning_rate = 0.02  # guessed" in text and 'path = "data/我的"   # keep' in text
    table = tomllib.loads(text)
    assert table["train"] == {"steps": 10, "batch_tokens": 4096}
    assert table["model"] == {"hidden_size": 64} and table["optimizer"]["name"] == "muon"


def test_a_file_that_cannot_be_edited_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("optimizer = { learning_rate = 0.1 }\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"set optimizer.learning_rate = 0.02 by hand"):
        write_values(file, {"optimizer.learning_rate": 0.02})
    assert file.read_text(encoding="utf-8") == "optimizer = { learning_rate = 0.1 }\n"
