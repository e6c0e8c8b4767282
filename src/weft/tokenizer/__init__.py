"""Text to token ids and back, exactly."""

from weft.tokenizer.encode import Tokenizer
from weft.tokenizer.train import train

__all__ = ["Tokenizer", "train"]
