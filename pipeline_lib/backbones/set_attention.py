"""Who sees whom, and where everything stands, when items are sets of tokens and queries ask behind them.

A row is ``n`` tokens of text, then T items of M tokens each, then Q times M queries: each of the Q asks what comes
behind the first few items of the history, and each of its M queries for one dimension of the answer. Tokens of one
item share a position and do not see each other, so their order says nothing.

Masks are explicit: True where a query may look, whatever computes attention. A key that nobody may see is padding.
Shapes: B rows, n text tokens, T items, M tokens an item, S = n + T * M, Q places that are asked about.
Source: Lin et al. 2025, "Order-agnostic Identifier for Large Language Model-based Generative Recommendation",
section 3.2 (sparse attention).
"""

import torch
from torch import Tensor


def history_mask(lengths: Tensor, num_items: int, tokens: int, text: int, *, sparse: bool, causal: bool,
                 causal_text: bool) -> Tensor:
    """Self-attention of text and history.

    Args:
        lengths: ``(B,)`` int, the items that a row really has, at its left.
        num_items: T.
        tokens: M.
        text: n.
        sparse: a token does not see the others of its item; else it does, those before it if ``causal``.
        causal: a token sees items before its own, text is not told about items; else all other items, and text all.
        causal_text: text sees the text before it; else all of it.

    Returns:
        ``(B, S, S)`` bool. Padding sees itself alone.
    """
    item = _item_of_token(num_items, tokens, text, lengths.device)
    place = torch.arange(len(item), device=lengths.device)
    own, same = place[:, None] == place, item[:, None] == item
    others = item < item[:, None] if causal else ~same
    together = own if sparse else same & (place <= place[:, None]) if causal else same
    of_text = same & (place <= place[:, None]) if causal_text else same
    allowed = others | torch.where(item[:, None] < 0, of_text, together)
    real = item < lengths[:, None]  # (B, S)
    return (allowed & real[:, None] & real[:, :, None]) | own


def query_mask(seen: Tensor, num_items: int, tokens: int, text: int) -> Tensor:
    """What queries see of text and history: ``seen (B, Q)`` items from the left.

    Returns:
        ``(B, Q, S)`` bool. Where nothing is there to see, the first token, which is padding then.
    """
    allowed = _item_of_token(num_items, tokens, text, seen.device) < seen[..., None]
    allowed[..., 0] |= ~allowed.any(dim=-1)
    return allowed


def mask_among_queries(tokens: int, sparse: bool, device: torch.device | None = None) -> Tensor:
    """``(M, M)`` bool, between queries of one place: each itself alone or, if not ``sparse``, those before it too."""
    ones = torch.ones(tokens, tokens, dtype=torch.bool, device=device)
    return torch.eye(tokens, dtype=torch.bool, device=device) if sparse else ones.tril()


def joined_mask(history: Tensor, queries: Tensor, among: Tensor) -> Tensor:
    """One mask ``(B, S + Q * M, S + Q * M)`` of history and queries behind it, which the history does not see.

    Args:
        history: of `history_mask`.
        queries: of `query_mask`.
        among: of `mask_among_queries`; queries of different places never see each other.
    """
    rows, places, tokens = *queries.shape[:2], len(among)
    asked = queries.repeat_interleave(tokens, dim=1)  # (B, Q * M, S)
    blocks = torch.block_diag(*[among] * places).expand(rows, -1, -1)
    above = torch.cat([history, torch.zeros_like(asked).transpose(1, 2)], dim=2)
    return torch.cat([above, torch.cat([asked, blocks], dim=2)], dim=1)


def history_positions(num_items: int, tokens: int, text: int, device: torch.device | None = None) -> Tensor:
    """``(S,)`` int64: text counts on, then all tokens of an item share one position."""
    items = torch.arange(num_items, device=device).repeat_interleave(tokens)
    return torch.cat([torch.arange(text, device=device), text + items])


def query_positions(seen: Tensor, tokens: int, text: int, shared: bool) -> Tensor:
    """``(B, Q, M)`` int64: the position behind the items that are seen.

    Args:
        seen: ``(B, Q)``.
        shared: all M queries of a place stand there; else, as in the released code, they follow each other from where
            they would stand if tokens did not share positions.
    """
    if shared:
        return (text + seen)[..., None].expand(*seen.shape, tokens)
    return text + seen[..., None] * tokens + torch.arange(tokens, device=seen.device)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where ``mask`` is True, else so low that a softmax gives it no weight at all."""
    lowest = torch.finfo(torch.bfloat16).min  # finite under autocast, too
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, lowest)


def _item_of_token(num_items: int, tokens: int, text: int, device: torch.device) -> Tensor:
    """``(S,)``: the item of each token, -1 for text."""
    items = torch.arange(num_items, device=device).repeat_interleave(tokens)
    return torch.cat([torch.full((text,), -1, device=device), items])
