"""T5: built from a config or loaded, and decoded with one encoding a user that all beams share.

Shapes: B users, T history tokens, W beams, H heads, d head size, D model width, V vocabulary, t positions so far.
Source: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import T5Config, T5ForConditionalGeneration


@dataclass(frozen=True)
class T5Context:
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    bias: Tensor | None

    def __len__(self) -> int:
        return len(self.keys[0])


class T5Decoder:
    def __init__(self, model):
        self.model = model
        self.encoder, self.decoder = model.get_encoder(), model.get_decoder()

    @torch.inference_mode()
    def encode(self, input_ids, attention_mask):
        import os
        if os.environ.get("HFENC"):
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            padding = None
        else:
            hidden, padding = self._encode(input_ids, attention_mask)
        keys, values = [], []
        for block in self.decoder.block:
            attention = block.layer[1].EncDecAttention
            keys.append(_heads(attention.k(hidden), attention))
            values.append(_heads(attention.v(hidden), attention))
        return T5Context(tuple(keys), tuple(values), padding)

    def _encode(self, input_ids, attention_mask):
        hidden = self.encoder.embed_tokens(input_ids)
        length = input_ids.shape[1]
        first = self.encoder.block[0].layer[0].SelfAttention
        bias, padding = first.compute_bias(length, length), None
        if not attention_mask.all():
            padding = torch.zeros(attention_mask.shape, dtype=hidden.dtype, device=hidden.device)
            padding = padding.masked_fill(attention_mask == 0, torch.finfo(hidden.dtype).min)[:, None, None]
            bias = bias + padding
        for block in self.encoder.block:
            attention = block.layer[0].SelfAttention
            normed = _normed(block.layer[0].layer_norm, hidden)
            key, value = _heads(attention.k(normed), attention), _heads(attention.v(normed), attention)
            hidden += _attend(attention, normed, key, value, bias)
            hidden = _feed_forward(block.layer[-1], hidden)
        return self.encoder.final_layer_norm(hidden), padding

    def next_log_probs(self, context, token_offsets, level_sizes, end_token=None):
        state = _Beams(self, context)
        start = self.model.config.decoder_start_token_id

        def step(level, codes, parents):
            if codes is None:
                tokens = torch.full((len(context), 1), start, device=context.keys[0].device)
            else:
                tokens = codes + token_offsets[level - 1]
                if end_token is not None:
                    tokens = tokens.where(codes < level_sizes[level - 1], end_token)
            logits = state.advance(tokens, parents)
            total = logits.logsumexp(-1, keepdim=True)
            part = logits[..., token_offsets[level]: token_offsets[level] + level_sizes[level]]
            if end_token is not None:
                part = torch.cat([part, logits[..., end_token: end_token + 1]], -1)
            return part - total
        return step


class _Beams:
    def __init__(self, decoder, context):
        self.model, self.decoder, self.context = decoder.model, decoder.decoder, context
        self.keys = [[] for _ in context.keys]
        self.values = [[] for _ in context.keys]
        self.rows = []

    @torch.inference_mode()
    def advance(self, tokens, parents):
        B, W = tokens.shape
        if parents is not None:
            P = self.width
            flat = (parents + P * torch.arange(B, device=tokens.device).unsqueeze(1)).flatten()
            self.rows = [r.index_select(0, flat) for r in self.rows[:-1]] + [flat]
        self.width = W
        self.rows = self.rows + [None]
        t = len(self.rows)
        first = self.decoder.block[0].layer[0].SelfAttention
        bias = first.compute_bias(1, t, past_seen_tokens=t - 1)[0, :, 0].t()  # (t,H)
        hidden = self.decoder.embed_tokens(tokens.flatten())
        for i, block in enumerate(self.decoder.block):
            attention = block.layer[0].SelfAttention
            H, d = attention.n_heads, attention.key_value_proj_dim
            normed = _normed(block.layer[0].layer_norm, hidden)
            self.keys[i].append(attention.k(normed)); self.values[i].append(attention.v(normed))
            query = attention.q(normed)
            scores = torch.stack([(query * (k if r is None else k.index_select(0, r))).view(-1, H, d).sum(-1) for k, r in zip(self.keys[i], self.rows)]).add_(bias.unsqueeze(1)).softmax(0).unsqueeze(-1)
            mixed = 0
            for k, r, w in zip(self.values[i], self.rows, scores):
                mixed += (k if r is None else k.index_select(0, r)).view(-1, H, d) * w
            hidden += attention.o(mixed.flatten(1))
            normed = _normed(block.layer[1].layer_norm, hidden).view(B, W, -1)
            hidden += _attend(block.layer[1].EncDecAttention, normed, self.context.keys[i], self.context.values[i], self.context.bias).flatten(0, 1)
            hidden = _feed_forward(block.layer[2], hidden)
        hidden = self.decoder.final_layer_norm(hidden)
        if self.model.config.scale_decoder_outputs:
            hidden = hidden * self.model.model_dim ** -0.5
        return self.model.lm_head(hidden).float().view(B, W, -1)


def _heads(x, attention):
    return x.unflatten(-1, (attention.n_heads, attention.key_value_proj_dim)).transpose(1, 2)


def _attend(attention, normed, key, value, bias):
    query = _heads(attention.q(normed), attention)
    if bias is not None:
        bias = bias.to(query.dtype)
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
    return attention.o(mixed.transpose(1, 2).flatten(2))


def _normed(norm, hidden):
    length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
    scale = torch.rsqrt(length.square_().div_(hidden.shape[-1]).add_(norm.variance_epsilon))
    return (hidden * scale).mul_(norm.weight)


def _feed_forward(layer, hidden):
    dense = layer.DenseReluDense
    inner = dense.wi(_normed(layer.layer_norm, hidden)).relu_()
    return hidden.add_(dense.wo(inner))


def build_t5(vocab_size, width, layers, heads, head_size, feed_forward, dropout, pad_id=0):
    config = T5Config(vocab_size=vocab_size, d_model=width, d_kv=head_size, d_ff=feed_forward, num_layers=layers,
                      num_decoder_layers=layers, num_heads=heads, dropout_rate=dropout, pad_token_id=pad_id,
                      decoder_start_token_id=pad_id)
    return T5ForConditionalGeneration(config)
