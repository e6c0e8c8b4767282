"""Inference: many requests through one model, a step at a time, with a key-value cache."""

from weft.engine.llm import LLM, Completion
from weft.engine.params import SamplingParams

__all__ = ["LLM", "Completion", "SamplingParams"]
