"""Recurrent networks as baselines: a bidirectional LSTM or GRU over packed rows.

Dimensions: B batch rows, T positions, E model width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft.models.baseline import Baseline
from weft.models.baseline_config import BaselineConfig
from weft.models.cells import cells, remember, states
from weft.ops.both_ways import BothWays


class Recurrent(Baseline):
    """A bidirectional LSTM (Hochreiter, Schmidhuber 1997) or GRU (arXiv:1406.1078), half the width each way.

    With labels of tokens and a CRF this is the BiLSTM-CRF of arXiv:1508.01991, with labels of documents and
    max pooling the BiLSTM-max of arXiv:1705.02364. ``WeftLstmFor...`` and ``WeftGruFor...`` are no stock
    architectures: no other program opens their checkpoints.
    """

    def __init__(self, config: BaselineConfig):
        super().__init__(config)
        size, layers = config.hidden_size, config.num_hidden_layers
        self.rnn = cells(config.body, config.input_size, size, layers, config.dropout)

    def reset_buffers(self) -> None:
        """The cell stays in fp32, in whatever format the weights of a checkpoint are wanted.

        PyTorch's cell in bf16 carries its state from step to step in bf16: after 64 steps of random weights
        it is off by 5e-3, and on a CPU it is no faster. Inputs and outputs are in the format of the work.
        """
        self.rnn.float()

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """As for every baseline; an LSTM begins by remembering."""
        super().initialise(generator)
        remember(self.rnn)

    def body(self, x_BTE: Tensor, context: BothWays) -> Tensor:
        """[B, T, input] -> [B, T, E]: the states of both directions; each begins anew in a document."""
        return states(self.rnn, x_BTE, context)
