"""Recurrent layers that read packed rows in both directions.

Dimensions: B batch rows, T positions, I width of the input, S width of the state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from weft.models.baseline_config import Body
from weft.ops import bilstm
from weft.ops.both_ways import BothWays
from weft.ops.dropout import dropout

Cells = nn.LSTM | nn.GRU

_CELLS: dict[Body, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


def cells(body: Body, read: int, width: int, layers: int, rate: float) -> Cells:
    """Layers of cells that read I = ``read`` numbers and give ``width``, half of it each way."""
    return _CELLS[body](read, width // 2, layers, bidirectional=True, dropout=rate if layers > 1 else 0.0)


@torch.no_grad()
def remember(rnn: Cells) -> None:
    """Let fresh layers begin by remembering: the forget gates of an LSTM at 1 (Gers et al. 2000)."""
    if not isinstance(rnn, nn.LSTM):
        return
    size = rnn.hidden_size
    for name, parameter in rnn.named_parameters():
        if name.startswith("bias_ih"):
            # The gates of PyTorch's LSTM stand in the order input, forget, cell, output.
            parameter[size : 2 * size] = 1.0


def states(rnn: Cells, x_BTI: Tensor, context: BothWays) -> Tensor:
    """[B, T, I] -> [B, T, 2 S] in the dtype of ``x``; the work is in fp32. Each document begins anew."""
    if isinstance(rnn, nn.LSTM) and x_BTI.device.type == "cpu":
        return _of_lstm(rnn, x_BTI.float(), context).to(x_BTI.dtype)
    return states_plain(rnn, x_BTI, context)


def _of_lstm(rnn: nn.LSTM, x_BTI: Tensor, context: BothWays) -> Tensor:
    documents = bilstm.groups(context)
    weights = [[getattr(rnn, name) for name in names] for names in rnn._all_weights]
    for number in range(rnn.num_layers):
        if number:
            x_BTI = dropout(x_BTI, rnn.dropout, rnn.training)
        x_BTI = bilstm.layer(x_BTI, documents, *weights[2 * number : 2 * number + 2])
    return x_BTI


def states_plain(rnn: Cells, x_BTI: Tensor, context: BothWays) -> Tensor:
    """As :func:`states`, by PyTorch's cells over packed sequences: on a GPU, for a GRU, and to compare."""
    order, together = in_step(context)
    flat = x_BTI.flatten(0, 1).float().index_select(0, order)
    found, _ = rnn(PackedSequence(flat, together))
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    placed: Tensor = found.data.index_select(0, back).unflatten(0, x_BTI.shape[:2]).to(x_BTI.dtype)
    return placed


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
