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
        matched = [self._matched(x_BTX, group, equal) for group, equal in zip(documents, same, strict=True)]
        read_BTE = self._dropped(states(self.below, _beside(x_BTX, documents, matched, self.below), apart))
        found = [self._asked(read_BTE, group, equal) for group, equal in zip(documents, same, strict=True)]
        about = [one for one, _ in found]
        again_BTE = self._dropped(states(self.above, _beside(read_BTE, documents, about, self.above), apart))
        return self._answered(again_BTE, documents, [question for _, question in found])

    def _matched(self, x_BTX: Tensor, group: Asked, same_NCQ: Tensor) -> Tensor:
        """[N, C, X + LONGEST]: the aligned question, and the n-grams that are repeated."""
        text, question = taken(x_BTX, group.text_NC), taken(x_BTX, group.question_NQ)
        queries, keys = (F.relu(self.likeness(x)) for x in (text, question))
        aligned = _attend(queries, keys, question, group)
        return torch.cat([aligned, repeated(same_NCQ, LONGEST).to(x_BTX.dtype)], dim=-1)

    def _asked(self, read_BTE: Tensor, group: Asked, same_NCQ: Tensor) -> tuple[Tensor, Tensor]:
        """([N, C, 2 E + REACHES], [N, E]): what tokens of the text see of the question, and the question."""
        text, question = taken(read_BTE, group.text_NC), taken(read_BTE, group.question_NQ)
        worth = self.worth(question).squeeze(-1).float().masked_fill(~group.in_question_NQ, float("-inf"))
        worth_NQ1 = worth.softmax(-1).to(text.dtype).unsqueeze(-1)
        close = [near(same_NCQ, reach).to(text.dtype) @ worth_NQ1 for reach in REACHES]
        seen = _attend(self.attention(text), question, question, group)
        return torch.cat([seen, text * seen, *close], dim=-1), (question * worth_NQ1).sum(1)

    def _answered(self, again_BTE: Tensor, documents: list[Asked], questions: list[Tensor]) -> Tensor:
        """[B, T, E]: the states of texts times their question, and at first tokens the largest of these."""
        answers, absent = [], []
        for group, question in zip(documents, questions, strict=True):
            answer = taken(again_BTE, group.text_NC) * (1 + self.bilinear(question)).unsqueeze(1)
            most = answer.masked_fill(~group.in_text_NC.unsqueeze(-1), float("-inf")).amax(1)
            answers.append(answer)
            absent.append(self.absent(most))
        if not documents:
            return torch.zeros_like(again_BTE)
        first = torch.cat([group.first_N for group in documents])
        placed = put(again_BTE, documents, answers).flatten(0, 1)
        return placed.index_copy(0, first, torch.cat(absent)).view_as(again_BTE)


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
