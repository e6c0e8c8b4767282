"""The special tokens of a tokenizer that Weft trains, and the chat template that uses them."""

from __future__ import annotations

END_OF_TEXT = "<|endoftext|>"
"""Ends a document, and stands before the first token of every document."""

TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"

SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)
"""In the order of their ids, after all learned tokens."""

MASK = "<mask>"
"""Hides a token from an encoder that shall guess it; only tokenizers for encoders have it."""

CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML as a Jinja template, the form that Hugging Face tokenizers carry."""

FOREIGN_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<|eot_id|>", TURN_END, "<eos>")
"""Names under which other tokenizers keep their end of text, tried when no configuration names it."""
