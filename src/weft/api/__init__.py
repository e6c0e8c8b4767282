"""``weft.load(path)`` and what it returns: models that do what they were trained for."""

from weft.api.load import load
from weft.api.model import Model, Settings
from weft.api.reading import ReadingModel
from weft.api.writing import WritingModel

__all__ = ["Model", "ReadingModel", "Settings", "WritingModel", "load"]
