"""Inference: many requests through one model, a step at a time, with a key-value cache."""

from weft.engine.completion import Completion
from weft.engine.llm import LLM
from weft.engine.params import SamplingParams
from weft.engine.search import Beams

__all__ = ["LLM", "Beams", "Completion", "SamplingParams"]
