"""A recurrent reader: where in a text the answer to a question begins and ends.

Dimensions: B batch rows, T positions, E model width, X width of a token's vectors, N documents, C tokens of
the longest text, Q tokens of the longest question, F features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.models.baseline import Baseline
from weft.models.baseline_config import BaselineConfig
from weft.models.cells import Cells, cells, remember, states
from weft.models.layers import Linear
from weft.models.reader_shape import LONGEST, REACHES, inputs
from weft.ops.both_ways import BothWays
from weft.ops.questions import Asked, asked, near, parts, put, repeated, same_tokens, taken


class SpanReader(Baseline):
    """A small DrQA (arXiv:1704.00051) with the second attention of BiDAF (arXiv:1611.01603).

    A token of the text is read with what it repeats of the question (:mod:`weft.ops.questions`) and with the
    mean of the question's vectors, weighted by likeness. ``below`` reads question and text, each by itself;
    each token of the text then looks at the states of the question, and ``above`` reads the text once more.
    The scores are bilinear in its states and in one vector of the question, a mean weighted by what its
    tokens are worth. The first token of a document stands for "not in this text" and is scored by the largest
    of each dimension over the text. ``below`` and ``above`` have ``num_hidden_layers`` each.

    ``WeftLstmForQuestionAnswering`` and ``WeftGruFor...`` are no stock architectures.
    """

    def __init__(self, config: BaselineConfig):
        super().__init__(config)
        below, above = inputs(config.input_size, config.hidden_size)
        size, depth = config.hidden_size, config.num_hidden_layers
        self.below = cells(config.body, below, size, depth, config.dropout)
        self.above = cells(config.body, above, size, depth, config.dropout)
        self.likeness = Linear(config.input_size, size)
        self.attention = Linear(size, size)
        self.worth = Linear(size, 1)
        self.bilinear = Linear(size, size)
        self.absent = Linear(size, size)

    def reset_buffers(self) -> None:
        """The cells stay in fp32, see :meth:`weft.models.recurrent.Recurrent.reset_buffers`."""
        self.below.float()
        self.above.float()

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """As for every recurrent network."""
        super().initialise(generator)
        remember(self.below)
        remember(self.above)

    def forward(self, tokens_BT: Tensor, context: BothWays, dtype: torch.dtype | None = None) -> Tensor:
        """int64 [B, T] -> [B, T, E]: what the classifier scores; zeros where there is no text."""
        x_BTX = self.vectors(tokens_BT, context, dtype)
        separator = self.config.sep_token_id
        assert separator is not None
        apart, documents = parts(tokens_BT, context, separator), asked(tokens_BT, context, separator)
        same = [same_tokens(tokens_BT, group) for group in documents]
        matched = list(map(self._matched, documents, same, *_texts_and_questions(x_BTX, documents)))
        read_BTE = self._dropped(states(self.below, _beside(x_BTX, documents, matched, self.below), apart))
        found = list(map(self._asked, documents, same, *_texts_and_questions(read_BTE, documents)))
        about = [one for one, _ in found]
        again_BTE = self._dropped(states(self.above, _beside(read_BTE, documents, about, self.above), apart))
        return self._answered(again_BTE, documents, [question for _, question in found])

    def _matched(self, group: Asked, same_NCQ: Tensor, text_NCX: Tensor, question_NQX: Tensor) -> Tensor:
        """[N, C, X + LONGEST]: the aligned question, and the n-grams that are repeated."""
        queries, keys = (F.relu(self.likeness(x)) for x in (text_NCX, question_NQX))
        aligned = _attend(queries, keys, question_NQX, group)
        return torch.cat([aligned, repeated(same_NCQ, LONGEST).to(aligned.dtype)], dim=-1)

    def _asked(
        self, group: Asked, same_NCQ: Tensor, text_NCE: Tensor, question_NQE: Tensor
    ) -> tuple[Tensor, Tensor]:
        """([N, C, 2 E + REACHES], [N, E]): what tokens of the text see of the question, and the question."""
        worth = self.worth(question_NQE).squeeze(-1).float()
        worth = worth.masked_fill(~group.in_question_NQ, float("-inf")).softmax(-1)
        worth_NQ1 = worth.to(text_NCE.dtype).unsqueeze(-1)
        close = [near(same_NCQ, reach).to(text_NCE.dtype) @ worth_NQ1 for reach in REACHES]
        seen = _attend(self.attention(text_NCE), question_NQE, question_NQE, group)
        return torch.cat([seen, text_NCE * seen, *close], dim=-1), (question_NQE * worth_NQ1).sum(1)

    def _answered(self, again_BTE: Tensor, documents: list[Asked], questions: list[Tensor]) -> Tensor:
        """[B, T, E]: the states of texts times their question, and at first tokens the largest of these."""
        if not documents:
            return torch.zeros_like(again_BTE)
        answers, absent = [], []
        texts = taken(again_BTE, [group.text_NC for group in documents])
        for group, text, question in zip(documents, texts, questions, strict=True):
            answer = text * (1 + self.bilinear(question)).unsqueeze(1)
            most = answer.masked_fill(~group.in_text_NC.unsqueeze(-1), float("-inf")).amax(1)
            answers.append(answer)
            absent.append(self.absent(most))
        first = torch.cat([group.first_N for group in documents])
        placed = put(again_BTE, documents, answers).flatten(0, 1)
        return placed.index_copy(0, first, torch.cat(absent)).view_as(again_BTE)


def _texts_and_questions(x_BTX: Tensor, documents: list[Asked]) -> tuple[list[Tensor], list[Tensor]]:
    """[N, C, X] and [N, Q, X] of each group."""
    places = [group.text_NC for group in documents] + [group.question_NQ for group in documents]
    found = taken(x_BTX, places)
    return found[: len(documents)], found[len(documents) :]


def _beside(x_BTX: Tensor, documents: list[Asked], seen: list[Tensor], cells: Cells) -> Tensor:
    """``x`` and what the texts see, as ``cells`` read them; questions see nothing."""
    if not documents:
        return F.pad(x_BTX, (0, cells.input_size - x_BTX.shape[-1]))
    return torch.cat([x_BTX, put(x_BTX, documents, seen)], dim=-1)


def _attend(queries_NCE: Tensor, keys_NQE: Tensor, values_NQX: Tensor, group: Asked) -> Tensor:
    """[N, C, X]: for each token of the text the mean of the question's values, weighted by likeness."""
    scores = (queries_NCE @ keys_NQE.transpose(1, 2)).float()
    shares = scores.masked_fill(~group.in_question_NQ.unsqueeze(1), float("-inf")).softmax(-1)
    return shares.to(values_NQX.dtype) @ values_NQX
