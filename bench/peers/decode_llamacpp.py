"""llama.cpp through llama-cpp-python's own C interface, as an engine of bench/decode.py."""

from __future__ import annotations

from typing import Any

import llama_cpp
import numpy as np
from decode_job import Step, Tokens, serve

UBATCH = 512


class Run:
    def __init__(self, settings: dict[str, Any]):
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(settings["model"].encode(), model)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = settings["context"] * settings["sequences"]
        params.n_batch = params.n_ctx
        params.n_ubatch = UBATCH
        params.n_seq_max = settings["sequences"]
        params.n_threads = params.n_threads_batch = settings["threads"]
        # One cache for all sequences reads the keys of all for each: the makers' own server splits it too.
        params.kv_unified = False
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        assert self.context, "llama.cpp could not make a context; see its messages above"
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(params.n_batch, 0, 1)

    def __call__(self, prompts: Tokens, new: int) -> Step:
        self._forget()
        position, tokens = 0, prompts
        for _ in range(new):
            rows = self._decode(tokens, position)
            position += len(tokens[0])
            picked = [int(self._scores(row).argmax()) for row in rows]
            tokens = [[token] for token in picked]
            yield picked

    def logits(self, prompt: list[int]) -> list[float]:
        self._forget()
        return self._scores(self._decode([prompt], 0)[0]).tolist()

    def _forget(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def _decode(self, tokens: Tokens, position: int) -> list[int]:
        """Feeds each sequence its tokens; returns the rows of the batch whose scores are kept."""
        batch, row, rows = self.batch, 0, []
        for sequence, items in enumerate(tokens):
            for offset, token in enumerate(items):
                batch.token[row] = token
                batch.pos[row] = position + offset
                batch.n_seq_id[row] = 1
                batch.seq_id[row][0] = sequence
                batch.logits[row] = offset == len(items) - 1
                row += 1
            rows.append(row - 1)
        batch.n_tokens = row
        failed = llama_cpp.llama_decode(self.context, batch)
        assert not failed, f"llama_decode returned {failed}"
        return rows

    def _scores(self, row: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        pointer = llama_cpp.llama_get_logits_ith(self.context, row)
        return np.ctypeslib.as_array(pointer, shape=(self.vocabulary,))


def start(settings: dict[str, Any]) -> tuple[dict[str, Any], Run]:
    run = Run(settings)
    info = llama_cpp.llama_print_system_info().decode()
    name = f"llama.cpp {settings['kind']}"
    return {"system": name, "versions": {"llama-cpp-python": llama_cpp.__version__, "build": info}}, run


if __name__ == "__main__":
    serve(start)
