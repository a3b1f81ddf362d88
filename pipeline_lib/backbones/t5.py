"""T5: built from a config or loaded, and decoded with one encoding a user that all of its beams share.

Shapes: B users, T input tokens, W beams, H heads, d head size, D width, V vocabulary, L levels, K codes of a level.
Source: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

from pipeline_lib.backbones.code_log_probs import code_log_probs

ATTENTION = "sdpa"
CPU_TOKENS = 2560  # encoded together on a CPU: more, and activations fall out of its cache
CPU_ROWS = 320  # through a feed forward layer together, likewise


def build_t5(vocab_size: int, width: int, layers: int, heads: int, head_size: int, feed_forward: int, dropout: float,
             pad_id: int = 0) -> T5ForConditionalGeneration:
    """A T5 v1.0 with random weights: relu, tied embeddings, ``layers`` encoder and as many decoder layers.

    Decoding starts from ``pad_id``, there is no end token. Weights come from the global torch generator.
    """
    config = T5Config(vocab_size=vocab_size, d_model=width, num_layers=layers, num_decoder_layers=layers,
                      num_heads=heads, d_kv=head_size, d_ff=feed_forward, dropout_rate=dropout, pad_token_id=pad_id,
                      decoder_start_token_id=pad_id, eos_token_id=None, feed_forward_proj="relu",
                      attn_implementation=ATTENTION)
    model = T5ForConditionalGeneration(config)
    for module in model.modules():
        if isinstance(module, T5Attention):
            module.dropout = 0.0  # dropping attention weights rules out fused attention: 1.4 times the time a step
    return model


def load_t5(name_or_folder: str, vocab_size: int | None = None) -> T5ForConditionalGeneration:
    """A pretrained T5 in float32, whatever it was saved in; from safetensors only and without remote code.

    Args:
        name_or_folder: a Hugging Face name or a local folder.
        vocab_size: rows that the embedding needs at least; new ones are drawn around the mean of the old.

    Raises:
        ValueError: if there is no such model, or it cannot be downloaded.
    """
    try:
        model = T5ForConditionalGeneration.from_pretrained(name_or_folder, use_safetensors=True, dtype=torch.float32,
                                                           attn_implementation=ATTENTION)
    except OSError as error:
        raise ValueError(f"no T5 with safetensors weights at {name_or_folder} ({str(error).splitlines()[0]}); give a "
                         "local folder as backbone, or set pretrained to null to build one from the config") from error
    if vocab_size is not None and vocab_size > model.config.vocab_size:
        model.resize_token_embeddings(vocab_size)
    return model


@dataclass(frozen=True)
class T5Context:
    """What the decoder attends to, of some users, stored once however many beams there are.

    Args:
        keys: a decoder layer ``(B, H, T, d)``.
        values: likewise.
        padding: ``(B, 1, 1, T)``, added to attention scores; None where no token is padding.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    padding: Tensor | None

    def __len__(self) -> int:
        return len(self.keys[0])


class T5Decoder:
    """Steps all beams of all users of a batch at once; equal to the model's own forward pass within rounding.

    It reads the model's weights where they are, so it need not be built again after more training. Use it in
    evaluation mode, under autocast or not.
    """

    def __init__(self, model: T5ForConditionalGeneration) -> None:
        self.model = model

    @torch.inference_mode()
    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> list[T5Context]:
        """Encode ``(B, T)`` tokens once, mask 0 at padding.

        Returns:
            Contexts of consecutive users, B in all: one on an accelerator, small ones on a CPU.
        """
        if self.model.training:
            raise ValueError("the T5 is in training mode, where dropout makes every step differ; call model.eval()")
        users = max(CPU_TOKENS // input_ids.shape[1], 1) if input_ids.device.type == "cpu" else len(input_ids)
        parts = zip(input_ids.split(users), attention_mask.split(users), strict=True)
        return [self._encode_part(ids, mask) for ids, mask in parts]

    def _encode_part(self, input_ids: Tensor, attention_mask: Tensor) -> T5Context:
        encoder, length = self.model.encoder, input_ids.shape[1]
        hidden, padding = encoder.embed_tokens(input_ids), None
        bias = encoder.block[0].layer[0].SelfAttention.compute_bias(length, length)  # (1, H, T, T)
        bias = bias.contiguous()  # a GPU has no fused attention for another order
        if not attention_mask.all():
            lowest = torch.finfo(torch.bfloat16).min  # finite under autocast, too
            padding = torch.zeros_like(attention_mask, dtype=hidden.dtype).masked_fill(attention_mask == 0, lowest)
            padding = padding[:, None, None]
            bias = bias + padding
        for block in encoder.block:
            attention, normed = block.layer[0].SelfAttention, _normed(block.layer[0].layer_norm, hidden)
            keys, values = (_heads(project(normed), attention) for project in (attention.k, attention.v))
            hidden += _attend(attention, normed, keys, values, bias)
            hidden = _feed_forward(block.layer[1], hidden)
        hidden = _normed(encoder.final_layer_norm, hidden)
        cross = [block.layer[1].EncDecAttention for block in self.model.decoder.block]
        return T5Context(tuple(_heads(attention.k(hidden), attention) for attention in cross),
                         tuple(_heads(attention.v(hidden), attention) for attention in cross), padding)

    def next_log_probs(self, contexts: Sequence[T5Context], token_offsets: Sequence[int], level_sizes: Sequence[int],
                       end_token: int | None = None,
                       over_level: bool = False) -> Callable[[int, Tensor | None, Tensor | None], Tensor]:
        """The callable that `decoding.beam` searches with; make a new one for each search.

        Args:
            contexts: of `encode`.
            token_offsets: code c of level l is token ``token_offsets[l] + c``.
            level_sizes: codes of each level.
            end_token: the token behind an identifier, given exactly where identifiers vary in length.
            over_level: normalise over what is returned, not over the whole vocabulary.

        Returns:
            ``(level, codes, parents) -> (B, W, K)`` float32, or ``(B, W, K + 1)`` with the end.
        """
        parts = [_Hypotheses(self.model, context) for context in contexts]
        sizes = [len(context) for context in contexts]
        start, device = self.model.config.decoder_start_token_id, contexts[0].keys[0].device

        @torch.inference_mode()
        def next_log_probs(level: int, codes: Tensor | None, parents: Tensor | None) -> Tensor:
            if codes is None or parents is None:
                tokens = torch.full((sum(sizes), 1), start, device=device)
                parents = torch.zeros_like(tokens)
            else:
                tokens = codes + token_offsets[level - 1]
                if end_token is not None:
                    tokens = tokens.masked_fill(codes == level_sizes[level - 1], end_token)
            wanted = slice(token_offsets[level], token_offsets[level] + level_sizes[level])
            steps = zip(parts, tokens.split(sizes), parents.split(sizes), strict=True)
            table = self.model.lm_head.weight
            return torch.cat([code_log_probs(part.states(*step), table, wanted, end_token, over_level)
                              for part, *step in steps])

        return next_log_probs


class _Hypotheses:
    """The decoder's own past of all beams of a part of the users.

    Keys and values stay where they were written, ``(B * W, H * d)`` a position, and beams that go on point at them.
    """

    def __init__(self, model: T5ForConditionalGeneration, context: T5Context) -> None:
        self.model, self.context = model, context
        self.past: list[list[tuple[Tensor, Tensor]]] = [[] for _ in context.keys]  # of each layer, of each position
        self.ancestors: list[Tensor] = []  # of each position (B * W,): the row that each beam descends from
        self.width = 1

    def states(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """``(B, W, D)``, to be multiplied with the output table: one more token ``(B, W)`` of the beams that
        ``parents (B, W)`` continue."""
        decoder, positions = self.model.decoder, len(self.ancestors) + 1
        self._follow(parents)
        first = decoder.block[0].layer[0].SelfAttention
        bias = first.compute_bias(1, positions, past_seen_tokens=positions - 1)[0].permute(2, 1, 0)  # (t, 1, H)
        hidden = decoder.embed_tokens(tokens.flatten())  # (B * W, D)
        for layer, block in enumerate(decoder.block):
            hidden += self._attend_to_past(layer, _normed(block.layer[0].layer_norm, hidden), bias)
            normed = _normed(block.layer[1].layer_norm, hidden).unflatten(0, tokens.shape)
            mixed = _attend(block.layer[1].EncDecAttention, normed, self.context.keys[layer],
                            self.context.values[layer], self.context.padding)  # a user's beams are its W queries
            hidden += mixed.flatten(0, 1)
            hidden = _feed_forward(block.layer[2], hidden)
        hidden = _normed(decoder.final_layer_norm, hidden)
        if self.model.config.scale_decoder_outputs:
            hidden *= self.model.config.d_model**-0.5
        return hidden.unflatten(0, tokens.shape)

    def _follow(self, parents: Tensor) -> None:
        users, width = parents.shape
        rows = (parents + self.width * torch.arange(users, device=parents.device)[:, None]).flatten()
        self.ancestors = [earlier.index_select(0, rows) for earlier in self.ancestors]
        self.ancestors.append(torch.arange(users * width, device=parents.device))
        self.width = width

    def _attend_to_past(self, layer: int, normed: Tensor, bias: Tensor) -> Tensor:
        """Few positions, each with a key of its own a beam: sums of products beat small matrix products."""
        attention = self.model.decoder.block[layer].layer[0].SelfAttention
        query, past = attention.q(normed), self.past[layer]
        past.append((attention.k(normed), attention.v(normed)))
        scores = [(query * self._rows(keys, at)).unflatten(-1, (attention.n_heads, -1)).sum(-1)
                  for at, (keys, _) in enumerate(past)]
        weights = (torch.stack(scores) + bias).softmax(0).unsqueeze(-1)  # (t, B * W, H, 1)
        mixed = torch.zeros_like(query).unflatten(-1, (attention.n_heads, -1))
        for at, (_, values) in enumerate(past):
            mixed.addcmul_(self._rows(values, at).view_as(mixed), weights[at].to(values.dtype))
        return attention.o(mixed.flatten(1))

    def _rows(self, stored: Tensor, position: int) -> Tensor:
        newest = position == len(self.ancestors) - 1
        return stored if newest else stored.index_select(0, self.ancestors[position])


def _heads(projected: Tensor, attention: nn.Module) -> Tensor:
    return projected.unflatten(-1, (attention.n_heads, attention.key_value_proj_dim)).transpose(1, 2)


def _attend(attention: nn.Module, normed: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """Queries ``(B, Q, D)`` against ``(B, H, T, d)``, in one call; T5 does not scale its scores."""
    queries = _heads(attention.q(normed), attention)
    bias = None if bias is None else bias.to(queries.dtype)
    mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, scale=1.0)
    return attention.o(mixed.transpose(1, 2).flatten(2))


def _normed(norm: nn.Module, hidden: Tensor) -> Tensor:
    """T5's layer norm in two passes over ``hidden`` instead of five."""
    length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
    return (hidden * torch.rsqrt(length**2 / hidden.shape[-1] + norm.variance_epsilon)).mul_(norm.weight)


def _feed_forward(layer: nn.Module, hidden: Tensor) -> Tensor:
    """The residual feed forward layer; relu in place, and few rows at a time on a CPU."""
    dense = layer.DenseReluDense
    if not isinstance(getattr(dense, "act", None), nn.ReLU) or not hasattr(dense, "wi"):
        return layer(hidden)
    rows = hidden.view(-1, hidden.shape[-1])
    for part in rows.split(CPU_ROWS if hidden.device.type == "cpu" else len(rows)):
        part += dense.wo(dense.wi(_normed(layer.layer_norm, part)).relu_())
    return hidden
