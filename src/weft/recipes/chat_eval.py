"""A chat model on held-out conversations: the loss of their answers, and a win rate by a judge."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.api import load
from weft.api.model import Model
from weft.core.errors import UsageError
from weft.core.files import hash_file
from weft.core.progress import Progress
from weft.engine import SamplingParams
from weft.eval.answer_loss import AnswerLosses, answer_losses
from weft.eval.chats import Chat, encoded, prompt_ids, read_chats
from weft.eval.judges import LikelihoodJudge, PythonJudge
from weft.eval.judging import Judge, Pair, VerdictFile, Verdicts, verdicts
from weft.eval.standing import MODEL, standing
from weft.models import Decoder
from weft.tokenizer import Tokenizer

Record = dict[str, Any]

REFERENCE = "reference"
"""What ``against`` names the answers in the files with."""

_WINNERS = {1.0: "first", 0.0: "tie", -1.0: "second"}


@dataclass(frozen=True)
class Answering:
    """How a model answers: up to ``max_new_tokens`` at ``temperature`` (0: the likeliest token each time),
    with the weights in ``dtype`` on ``device``, as :func:`weft.load` takes them."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    dtype: str | None = None
    device: str | None = None


@dataclass(frozen=True)
class _Said:
    """What one model said: its loss on the references, its answers, and how many came to no end."""

    losses: AnswerLosses
    answers: list[str]
    notes: dict[str, int]


@dataclass(frozen=True)
class ChatEvaluation:
    """What was asked and answered; ``judged`` once :meth:`judged_by` was called."""

    record: Record
    chats: list[Chat]
    pairs: list[Pair]
    how: Answering
    judged: Verdicts | None = None

    def judged_by(self, judge: Judge, name: Path, draws: int = 2000) -> ChatEvaluation:
        """With its verdicts; ``name``: where the judge lies. UsageError, DataError for what it cannot do."""
        started = time.perf_counter()
        found = verdicts(judge, self.pairs)
        counts = {name: int((found.values == value).sum()) for value, name in _COUNTS.items()}
        told = {
            "judge": str(name),
            "judge_sha256": hash_file(name) if name.is_file() else None,
            **counts,
            "equal_answers": found.equal,
            "orders_disagree": found.disagreed,
            "judged_once": found.once,
            "figures": found.figures(seed=self.how.seed, draws=draws),
            "seconds": round(time.perf_counter() - started, 2),
        }
        return ChatEvaluation({**self.record, "verdicts": told}, self.chats, self.pairs, self.how, found)

    def rows(self) -> list[Record]:
        """A record for each conversation, as :class:`weft.eval.judging.VerdictFile` reads it, and more."""
        winners = [None] * len(self.pairs) if self.judged is None else self.judged.values.tolist()
        return [
            {
                "where": chat.where,
                "prompt": pair.prompt,
                "first": pair.first,
                "second": pair.second,
                "winner": None if value is None else _WINNERS[value],
                "reference": chat.reference,
            }
            for chat, pair, value in zip(self.chats, self.pairs, winners, strict=True)
        ]


_COUNTS = {1.0: "wins", 0.0: "ties", -1.0: "losses"}


def evaluate_chat(
    checkpoint: Path,
    files: Sequence[Path],
    against: str = REFERENCE,
    how: Answering = Answering(),
    draws: int = 2000,
) -> ChatEvaluation:
    """Answers of the checkpoint and of ``against``, another checkpoint or the answers of the files.

    Raises UsageError for what is no decoder, DataError for records without answers.
    """
    if how.max_new_tokens < 1 or how.temperature < 0:
        raise UsageError("Answers need at least one token, and a temperature of at least 0.")
    started = time.perf_counter()
    chats = read_chats(files)
    said = _said(checkpoint, chats, how)
    systems = {MODEL: said.losses.measures()}
    others, notes = [chat.reference for chat in chats], {MODEL: said.notes}
    if against != REFERENCE:
        other = _said(Path(against), chats, how)
        systems[against], others, notes[against] = other.losses.measures(), other.answers, other.notes
    pairs = [
        Pair(chat.where, chat.asked, chat.prompt, own, second)
        for chat, own, second in zip(chats, said.answers, others, strict=True)
    ]
    record = {
        "checkpoint": str(checkpoint),
        "against": against,
        "items": len(chats),
        "files": {str(file): hash_file(file) for file in files if file.is_file()},
        "figures": standing(systems, seed=how.seed, draws=draws),
        "notes": notes,
        "settings": {
            "max_new_tokens": how.max_new_tokens, "temperature": how.temperature, "seed": how.seed,
        },
        "seconds": round(time.perf_counter() - started, 2),
    }  # fmt: skip
    return ChatEvaluation(record, chats, pairs, how)


def open_judge(path: Path, how: Answering = Answering()) -> Judge:
    """A folder is a chat model that judges by likelihood, ``.py`` a function, anything else verdicts.

    UsageError where nothing is there, or it has no function.
    """
    if not path.exists():
        raise UsageError(
            f"There is no judge {path}; give a .py file with judge(prompt, first, second), JSON Lines of "
            "verdicts, or the folder of a chat model."
        )
    if path.is_dir():

        def loaded() -> tuple[Decoder, Tokenizer]:
            model = _decoder(path, how)
            return model.llm.runner.model, model.tokenizer

        return LikelihoodJudge(loaded)
    return PythonJudge(path) if path.suffix == ".py" else VerdictFile(path)


def _said(checkpoint: Path, chats: Sequence[Chat], how: Answering) -> _Said:
    model = _decoder(checkpoint, how)
    conversations = encoded(model.tokenizer, chats)
    with Progress("eval", unit="answers") as progress:
        progress.say(f"loss of {len(chats):,} answers under {checkpoint}")
        losses = answer_losses(model.llm.runner.model, model.tokenizer, conversations)
        progress.say(f"answers of {checkpoint}")
        prompts = [prompt_ids(model.tokenizer, one) for one in conversations]
        answers, notes = _answers(model, prompts, how)
    notes |= {"answers_beyond_the_context": losses.beyond} if losses.beyond else {}
    # The next model would otherwise stand beside it in memory.
    del model
    gc.collect()
    return _Said(losses, answers, notes)


def _answers(model: Model, prompts: Sequence[list[int]], how: Answering) -> tuple[list[str], dict[str, int]]:
    """An answer to each prompt, empty where it leaves no room, and how many were cut or not written."""
    answers = [""] * len(prompts)
    notes: dict[str, int] = {}
    room = [model.llm.context - len(prompt) for prompt in prompts]
    asked = [place for place, left in enumerate(room) if left > 0]
    params = [
        SamplingParams(
            max_tokens=min(how.max_new_tokens, room[place]),
            temperature=how.temperature,
            seed=how.seed + place,
        )
        for place in asked
    ]
    written = model.llm.generate([prompts[place] for place in asked], params)
    for place, made in zip(asked, written, strict=True):
        answers[place] = made.text
        if made.finish_reason == "length":
            notes["answers_cut_off"] = notes.get("answers_cut_off", 0) + 1
    if len(asked) < len(prompts):
        notes["prompts_too_long"] = len(prompts) - len(asked)
    return answers, notes


def _decoder(checkpoint: Path, how: Answering) -> Model:
    model = load(checkpoint, how.dtype, how.device, max_sequences=16)
    if not isinstance(model, Model):
        raise UsageError(f"{checkpoint} is a {model.architecture}, which does not chat; give a decoder.")
    return model
