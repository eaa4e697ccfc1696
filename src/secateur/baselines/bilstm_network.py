"""A bidirectional LSTM under a million parameters, with the heads that a teacher of BERT's kind has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.modeling_outputs import TokenClassifierOutput

from secateur.errors import UnsupportedError
from secateur.export.onnx import LstmDirection, RecurrentWeights

__all__ = ["MOST_PARAMETERS", "BiLstmNetwork", "bilstm_for", "known_pieces"]

MOST_PARAMETERS = 1_000_000
WIDTH = 64  # of an embedding
STATES = 150  # of one direction, as Tang et al.
HIDDEN = 200  # of the layer after it, as Tang et al.
_DROPOUT = 0.3
_UNKNOWN_SHARE = 0.03  # of the pieces in training that are shown as unknown


class BiLstmNetwork(nn.Module):  # type: ignore[misc]
    """Embeddings of some word pieces, an LSTM in both directions, a hidden layer, an output layer.

    Args:
        config: `num_labels`, `problem_type`, `vocab_size` of the teacher's tokenizer.
        pieces: (V,) int64, token id to row of the table; 0 is the row of all unknown ones.
        each_token: Whether it answers for every token, or once for a text.

    Source:
        Tang et al., "Distilling Task-Specific Knowledge from BERT into Simple Neural Networks" (2019),
        section 3.1. Words are the teacher's word pieces here, and a pair is one text with a separator.
    """

    def __init__(self, config: PretrainedConfig, pieces: Tensor, each_token: bool) -> None:
        super().__init__()
        self.config = config
        self.each_token = each_token
        self.register_buffer("pieces", pieces)
        self.table = nn.Embedding(int(pieces.max()) + 1, WIDTH)
        self.lstm = nn.LSTM(WIDTH, STATES, bidirectional=True, batch_first=True)
        self.dropout = nn.Dropout(_DROPOUT)
        self.dense = nn.Linear(2 * STATES, HIDDEN)
        self.output = nn.Linear(HIDDEN, config.num_labels)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None
    ) -> TokenClassifierOutput:
        """Answers texts.

        Args:
            input_ids: (B, S) int64, padded on the right.
            attention_mask: (B, S) int64.
            labels: Not read; who trains it computes the loss.

        Returns:
            `logits`: (B, L) or (B, S, L) float32.
        """
        rows = self.pieces[input_ids]
        if self.training:
            rows = rows.masked_fill(torch.rand(rows.shape, device=rows.device) < _UNKNOWN_SHARE, 0)
        with torch.autocast(input_ids.device.type, enabled=False):
            packed = nn.utils.rnn.pack_padded_sequence(
                self.dropout(self.table(rows)),
                attention_mask.sum(-1).cpu(),
                batch_first=True,
                enforce_sorted=False,
            )
            every, (final, _) = self.lstm(packed)
            if self.each_token:
                read, _ = nn.utils.rnn.pad_packed_sequence(
                    every, batch_first=True, total_length=input_ids.shape[1]
                )
            else:
                read = final.transpose(0, 1).flatten(1)  # (B, 2 h)
            logits = self.output(self.dropout(torch.relu(self.dense(read))))
        return TokenClassifierOutput(logits=logits)

    def weights(self) -> RecurrentWeights:
        """Returns the weights, for a graph."""

        def array(tensor: Any) -> Any:
            return tensor.detach().cpu().numpy()

        def direction(end: str) -> LstmDirection:
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            return LstmDirection(*(array(getattr(self.lstm, f"{name}_l0{end}")) for name in names))

        return RecurrentWeights(
            pieces=array(self.pieces),
            table=array(self.table.weight),
            directions=(direction(""), direction("_reverse")),
            dense=(array(self.dense.weight), array(self.dense.bias)),
            output=(array(self.output.weight), array(self.output.bias)),
            each_token=self.each_token,
        )


class _ForSequenceClassification(BiLstmNetwork):
    """One answer a text; the end of the name tells `objective_of` what it learns."""


class _ForTokenClassification(BiLstmNetwork):
    """One answer a token."""


def bilstm_for(head: str, config: PretrainedConfig, pieces: Tensor, table: Tensor) -> BiLstmNetwork:
    """Makes a network for a kind of head.

    Args:
        head: `sequence` or `token`.
        config: See `BiLstmNetwork`.
        pieces: See `BiLstmNetwork`.
        table: [V, H] float, the teacher's word table, whose main directions the embeddings start with.
    """
    kind = {"sequence": _ForSequenceClassification, "token": _ForTokenClassification}[head]
    network = kind(config, pieces, head == "token")
    _start_embeddings_(network, table)
    return network


def known_pieces(rows: Sequence[Sequence[int]], vocabulary: int, labels: int) -> Tensor:
    """Chooses the word pieces that get an embedding: those of the rows, the most frequent where too many.

    Args:
        rows: Token ids.
        vocabulary: V.
        labels: L.

    Returns:
        (V,) int64, token id to row of the table; 0 for the unknown.

    Raises:
        UnsupportedError: The labels alone take all parameters.
    """
    lstm = 2 * 4 * STATES * (WIDTH + STATES + 2)
    rest = lstm + (2 * STATES + 1) * HIDDEN + (HIDDEN + 1) * labels
    room = (MOST_PARAMETERS - 1 - rest) // WIDTH - 1
    if room < 100:
        raise UnsupportedError(
            f"{labels} labels leave no room for words in a network of {MOST_PARAMETERS:,} parameters."
        )
    counts = Counter(token for row in rows for token in row)
    ranked = sorted(counts, key=lambda token: (-counts[token], token))[:room]
    pieces = torch.zeros(vocabulary, dtype=torch.long)
    pieces[torch.tensor(sorted(ranked))] = torch.arange(1, len(ranked) + 1)
    return pieces


def _start_embeddings_(network: BiLstmNetwork, table: Tensor) -> None:
    """Starts with the main directions of the teacher's embeddings, scaled to the usual size."""
    chosen = table.detach().float().cpu()[network.pieces.nonzero().flatten()]
    centred = chosen - chosen.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    found = centred @ directions[:WIDTH].T
    with torch.no_grad():
        network.table.weight[0] = 0.0
        network.table.weight[1:, : found.shape[1]] = found / found.std().clamp(min=1e-6)
