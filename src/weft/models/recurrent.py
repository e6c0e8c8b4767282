"""Recurrent networks as baselines: a bidirectional LSTM or GRU over packed rows.

Dimensions: B batch rows, T positions, E model width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from weft.models.baseline import Baseline
from weft.models.baseline_config import BaselineConfig
from weft.ops import bilstm
from weft.ops.both_ways import BothWays
from weft.ops.dropout import dropout

_CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


class Recurrent(Baseline):
    """A bidirectional LSTM (Hochreiter, Schmidhuber 1997) or GRU (arXiv:1406.1078), half the width each way.

    With labels of tokens and a CRF this is the BiLSTM-CRF of arXiv:1508.01991, with labels of documents and
    max pooling the BiLSTM-max of arXiv:1705.02364. ``WeftLstmFor...`` and ``WeftGruFor...`` are no stock
    architectures: no other program opens their checkpoints.
    """

    def __init__(self, config: BaselineConfig):
        super().__init__(config)
        layers = config.num_hidden_layers
        self.rnn = _CELLS[config.body](
            config.input_size,
            config.hidden_size // 2,
            layers,
            bidirectional=True,
            dropout=config.dropout if layers > 1 else 0.0,
        )

    def reset_buffers(self) -> None:
        """The cell stays in fp32, in whatever format the weights of a checkpoint are wanted.

        PyTorch's cell in bf16 carries its state from step to step in bf16: after 64 steps of random weights
        it is off by 5e-3, and on a CPU it is no faster. Inputs and outputs are in the format of the work.
        """
        self.rnn.float()

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """As for every baseline; an LSTM begins by remembering, with forget gates at 1 (Gers et al. 2000)."""
        super().initialise(generator)
        if self.config.body != "lstm":
            return
        size = self.rnn.hidden_size
        for name, parameter in self.rnn.named_parameters():
            if name.startswith("bias_ih"):
                # The gates of PyTorch's LSTM stand in the order input, forget, cell, output.
                parameter[size : 2 * size] = 1.0

    def body(self, x_BTE: Tensor, context: BothWays) -> Tensor:
        """[B, T, input] -> [B, T, E]: the states of both directions; each begins anew in a document."""
        if self.config.body == "lstm" and x_BTE.device.type == "cpu":
            return self._layers(x_BTE.float(), context).to(x_BTE.dtype)
        return self.body_plain(x_BTE, context)

    def _layers(self, x_BTE: Tensor, context: BothWays) -> Tensor:
        documents = bilstm.groups(context)
        weights = [[getattr(self.rnn, name) for name in names] for names in self.rnn._all_weights]
        for number in range(self.config.num_hidden_layers):
            if number:
                x_BTE = dropout(x_BTE, self.config.dropout, self.training)
            x_BTE = bilstm.layer(x_BTE, documents, *weights[2 * number : 2 * number + 2])
        return x_BTE

    def body_plain(self, x_BTE: Tensor, context: BothWays) -> Tensor:
        """As :meth:`body`, by PyTorch's cells over packed sequences: on a GPU, and to compare."""
        order, together = in_step(context)
        flat = x_BTE.flatten(0, 1).float().index_select(0, order)
        states, _ = self.rnn(PackedSequence(flat, together))
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        found: Tensor = states.data.index_select(0, back).unflatten(0, x_BTE.shape[:2]).to(x_BTE.dtype)
        return found


def in_step(context: BothWays) -> tuple[Tensor, Tensor]:
    """The documents of all rows side by side: (order int64 [B * T], together int64 on the CPU).

    ``order`` has the flat positions (row * T + column) of the first token of every document, the longest
    document first, then of every second token, and so on; ``together`` counts how many there are of each.
    Nothing is padded: rows end in documents of one token, and thousands of them beside a long one would fill
    the memory.
    """
    place = context.positions().flatten()
    length = (context.end - context.start).flatten().long()
    width = context.start.shape[1] + 1
    order = torch.argsort(place * width - length, stable=True)
    return order, torch.bincount(place).cpu()
