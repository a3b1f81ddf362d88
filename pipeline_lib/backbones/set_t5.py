"""A T5 that reads sets of tokens and answers queries: all queries of a row in one pass, none of them decoded.

The encoder pass is written out over the T5's layers, because transformers takes relative positions from flat indices;
here tokens of an item share one. Works under every attention of transformers, since the masks are tensors.

Shapes: B rows, n text tokens, T items, M tokens an item, S = n + T * M, Q places that are asked about, W width,
H heads.
Source: Lin et al. 2025 (section 3.2), over Raffel et al. 2020 (T5). The released code masks nothing in the encoder, and
adds its identity mask of the queries to their scores.
"""

import torch
from torch import Tensor, nn
from transformers import T5ForConditionalGeneration

from pipeline_lib.backbones.set_attention import (
    additive, history_mask, history_positions, mask_among_queries, query_mask, query_positions,
)


class SetT5(nn.Module):
    """Encoder and decoder of a T5, without its vocabulary but for a text ``(n, W)`` in front of each history.

    ``sparse``, ``causal`` and ``shared``: see `set_attention`.
    """

    def __init__(self, t5: T5ForConditionalGeneration, text: Tensor, *, sparse: bool, causal: bool,
                 shared: bool) -> None:
        super().__init__()
        self.config, self.sparse, self.causal, self.shared = t5.config, sparse, causal, shared
        self.encoder, self.decoder = t5.encoder, t5.decoder
        self.encoder.embed_tokens = self.decoder.embed_tokens = None
        self.text = nn.Parameter(text) if len(text) else None

    @property
    def width(self) -> int:
        return self.config.d_model

    def forward(self, tokens: Tensor, lengths: Tensor, queries: Tensor, seen: Tensor) -> Tensor:
        """Answers ``(B, Q, M, W)``.

        Args:
            tokens: ``(B, T, M, W)``, items from the left, zeros behind them; T at least 1.
            lengths: ``(B,)``, items of each row.
            queries: ``(M, W)``.
            seen: ``(B, Q)``, how many items each place is told about.
        """
        encoded = self.encode(tokens, lengths)
        places, (rows, num_items, size) = seen.shape[1], tokens.shape[:3]
        visible = query_mask(seen, num_items, size, self._text_length)
        cross = additive(visible.repeat_interleave(size, dim=1), encoded.dtype)[:, None]  # (B, 1, Q * M, S)
        among = additive(mask_among_queries(size, self.sparse, seen.device), encoded.dtype)[None, None]
        positions = query_positions(seen.new_zeros(1, 1), size, 0, self.shared)[0, 0]
        bias = relative_bias(self.decoder, positions)
        hidden = self.decoder.dropout(queries.expand(rows, places, -1, -1)).flatten(0, 1)  # (B * Q, M, W)
        for block in self.decoder.block:
            hidden = block.layer[0](hidden, attention_mask=among, position_bias=bias)[0]
            hidden = hidden.reshape(rows, places * size, -1)
            hidden = block.layer[1](hidden, key_value_states=encoded, attention_mask=cross)[0]
            hidden = block.layer[2](hidden).reshape(rows * places, size, -1)
        hidden = self.decoder.dropout(self.decoder.final_layer_norm(hidden))
        return hidden.unflatten(0, (rows, places))

    def encode(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """States ``(B, S, W)`` of the text and of ``tokens (B, T, M, W)``."""
        num_items, size = tokens.shape[1:3]
        hidden = tokens.flatten(1, 2)
        if self.text is not None:
            hidden = torch.cat([self.text.expand(len(tokens), -1, -1), hidden], dim=1)
        mask = history_mask(lengths, num_items, size, self._text_length, sparse=self.sparse, causal=self.causal,
                            causal_text=False)
        bias = relative_bias(self.encoder, history_positions(num_items, size, self._text_length, lengths.device))
        bias = bias + additive(mask, hidden.dtype)[:, None]  # (B, H, S, S), once for all layers
        hidden = self.encoder.dropout(hidden)
        for block in self.encoder.block:
            hidden = block.layer[0](hidden, position_bias=bias)[0]
            hidden = block.layer[1](hidden)
        return self.encoder.dropout(self.encoder.final_layer_norm(hidden))

    @property
    def _text_length(self) -> int:
        return 0 if self.text is None else len(self.text)


def relative_bias(stack: nn.Module, positions: Tensor) -> Tensor:
    """T5's learned bias ``(1, H, S, S)`` of a stack's attention for tokens that stand at ``positions (S,)``."""
    attention = stack.block[0].layer[0].SelfAttention
    buckets = attention._relative_position_bucket(
        positions - positions[:, None], bidirectional=not attention.is_decoder,
        num_buckets=attention.relative_attention_num_buckets, max_distance=attention.relative_attention_max_distance)
    return attention.relative_attention_bias(buckets).permute(2, 0, 1)[None]
