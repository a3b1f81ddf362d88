"""A decoder-only LM that reads sets of tokens and answers queries, which stand behind the history in one sequence.

Shapes: B rows, n text tokens, T items, M tokens an item, S = n + T * M, Q places that are asked about, W width.
Source: Lin et al. 2025 (section 3.2). The released code builds its sparse mask under eager attention alone; here it is
one 4-D tensor that every attention of transformers takes as it is.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline_lib.backbones.set_attention import (
    additive, history_mask, history_positions, joined_mask, mask_among_queries, query_mask, query_positions,
)


class SetLM(nn.Module):
    """The layers of a causal LM, without its vocabulary but for a text ``(n, W)`` in front of each history.

    ``sparse`` and ``shared``: see `set_attention`. Whatever of ``body`` has no gradient, the text neither.
    """

    def __init__(self, body: PreTrainedModel, text: Tensor, *, sparse: bool, shared: bool, trains_text: bool) -> None:
        super().__init__()
        self.config, self.sparse, self.shared = body.config, sparse, shared
        body.set_input_embeddings(None)
        self.body = body
        self.text = nn.Parameter(text, requires_grad=trains_text) if len(text) else None

    @property
    def width(self) -> int:
        return self.config.hidden_size

    def forward(self, tokens: Tensor, lengths: Tensor, queries: Tensor, seen: Tensor) -> Tensor:
        """Answers ``(B, Q, M, W)``; arguments as for `set_t5.SetT5`.

        Raises:
            ValueError: if a position is beyond those that the LM knows.
        """
        text, places, (rows, num_items, size) = self._text_length, seen.shape[1], tokens.shape[:3]
        parts = [] if self.text is None else [self.text.expand(rows, -1, -1)]
        hidden = torch.cat([*parts, tokens.flatten(1, 2), queries.expand(rows, places, -1, -1).flatten(1, 2)], dim=1)
        history = history_mask(lengths, num_items, size, text, sparse=self.sparse, causal=True, causal_text=True)
        mask = joined_mask(history, query_mask(seen, num_items, size, text),
                           mask_among_queries(size, self.sparse, seen.device))
        standing = history_positions(num_items, size, text, seen.device).expand(rows, -1)
        positions = torch.cat([standing, query_positions(seen, size, text, self.shared).flatten(1)], dim=1)
        self._check(positions)
        states = self.body(inputs_embeds=hidden, attention_mask=additive(mask, hidden.dtype)[:, None],
                           position_ids=positions, use_cache=False).last_hidden_state
        return states[:, -places * size :].unflatten(1, (places, size))

    @property
    def _text_length(self) -> int:
        return 0 if self.text is None else len(self.text)

    def _check(self, positions: Tensor) -> None:
        known = getattr(self.config, "max_position_embeddings", None)
        if known is not None and positions.max() >= known:
            raise ValueError(f"a history reaches position {int(positions.max())}, but the LM knows {known}; lower "
                             "sequences.max_items, or take positions=shared")
