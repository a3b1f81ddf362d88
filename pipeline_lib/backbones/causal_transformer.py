"""A stack of causal self-attention blocks: each position sees itself and what came before.

Post-norm, as in RecBole's SASRec and the Transformer of Vaswani et al. 2017: the norm follows each residual sum.
Sequences start at the left; padding stands behind them, where no real position looks, so no padding mask is needed.

Shapes: B sequences, T positions, H heads, d head size, D width.
Source: Kang and McAuley 2018, "Self-Attentive Sequential Recommendation", section III-B, equations 2 to 5.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class CausalTransformer(nn.Module):
    """``layers`` blocks of one width; weights come from the global torch generator.

    Args:
        width: D.
        layers: blocks.
        heads: H, a divisor of ``width``.
        feed_forward: hidden units of the feed forward layer (GELU).
        dropout: of what each attention and feed forward layer adds. Attention weights are not dropped, unlike the
            paper's: that would rule out fused attention.
        initializer_std: of all matrices; biases start at 0.

    Raises:
        ValueError: if ``heads`` does not divide ``width``.
    """

    def __init__(self, width: int, layers: int, heads: int, feed_forward: int, dropout: float,
                 initializer_std: float = 0.02) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width is {width} but there are {heads} heads; take a number of heads that divides it")
        self.blocks = nn.ModuleList(Block(width, heads, feed_forward, dropout) for _ in range(layers))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=initializer_std)
                nn.init.zeros_(module.bias)

    def forward(self, states: Tensor) -> Tensor:
        """``(B, T, D)`` to ``(B, T, D)``; position t depends on positions 0 to t alone."""
        for block in self.blocks:
            states = block(states)
        return states


class Block(nn.Module):
    """Causal attention and a feed forward layer, each with dropout, residual sum and norm."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, feed_forward), nn.Linear(feed_forward, width)
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        states = self.attention_norm(states + self.dropout(self.output(self._attend(states))))
        return self.feed_forward_norm(states + self.dropout(self.narrow(F.gelu(self.wide(states)))))

    def _attend(self, states: Tensor) -> Tensor:
        batch, length, width = states.shape
        heads = self.query_key_value(states).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # (B, H, T, d) each
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return attended.transpose(1, 2).reshape(batch, length, width)
