"""Decoder-only language models, decoded with one pass over a prompt a user that all of the user's beams share.

The beams of a user are the tokens of one sequence behind the prompt: a mask lets each see the prompt and what it
descends from, and nothing of the other beams. So a step is the model's own forward pass, whatever its family, and
keys of the prompt are stored once.

Shapes: B users, T prompt tokens, W beams, S stored tokens of beams, H key heads, d head size, D width, R code tokens,
K codes of a level.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel

from pipeline_lib.backbones.code_log_probs import code_log_probs

CPU_TOKENS = 2560  # read together on a CPU: more, and activations fall out of its cache


@dataclass(frozen=True)
class CausalContext:
    """The prompts of some users, stored once however many beams there are.

    Args:
        keys: a layer ``(B, H, T, d)``.
        values: likewise.
        mask: ``(B, T)`` bool, False at padding.
        states: ``(B, 1, D)``, of the last token of each prompt: what predicts the first code.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor
    states: Tensor

    def __len__(self) -> int:
        return len(self.states)


class CausalDecoder:
    """Steps all beams of all users of a batch at once; equal to the model's own forward pass within rounding.

    It reads the model's weights where they are, so it need not be built again after more training. Use it in
    evaluation mode, under autocast or not.

    Args:
        model: any causal LM of transformers that attends by ``sdpa``; its word tables are not read.
        embeddings: ``(R, D_in)``, what the model reads for each code token.
        classifier: ``(R, D)``, what a state is multiplied with; probabilities are normalised over its rows.
    """

    def __init__(self, model: PreTrainedModel, embeddings: Tensor, classifier: Tensor) -> None:
        if model.config._attn_implementation != "sdpa":
            raise ValueError(f"the language model attends by {model.config._attn_implementation}, where the mask of "
                             "beams means something else; load it with attn_implementation=sdpa")
        if "sliding_attention" in (getattr(model.config, "layer_types", None) or ()):
            raise ValueError("the language model has sliding windows, which beams behind one prompt do not fit; "
                             "take one without (use_sliding_window=false)")
        self.model, self.embeddings, self.classifier = model, embeddings, classifier

    @torch.inference_mode()
    def encode(self, inputs_embeds: Tensor, attention_mask: Tensor) -> list[CausalContext]:
        """Read prompts ``(B, T, D_in)`` once, each padded on the right, mask 0 at padding.

        Returns:
            Contexts of consecutive users, B in all: one on an accelerator, small ones on a CPU.

        Raises:
            ValueError: for a model in training mode, a prompt without tokens, or padding that is not on the right.
        """
        if self.model.training:
            raise ValueError("the language model is in training mode, where dropout makes every step differ; call "
                             "model.eval()")
        mask = attention_mask.bool()
        wrong = ~mask[:, 0] | (mask[:, 1:] > mask[:, :-1]).any(dim=1)
        if wrong.any():
            raise ValueError(f"prompt {int(wrong.nonzero()[0])} of a batch is empty or padded on the left; "
                             "pad prompts on the right")
        users = max(CPU_TOKENS // mask.shape[1], 1) if inputs_embeds.device.type == "cpu" else len(mask)
        return [self._encode_part(*part) for part in zip(inputs_embeds.split(users), mask.split(users), strict=True)]

    def _encode_part(self, inputs_embeds: Tensor, mask: Tensor) -> CausalContext:
        lengths = mask.sum(dim=1)
        inputs_embeds, mask = inputs_embeds[:, : lengths.max()], mask[:, : lengths.max()]
        output = self.model.base_model(inputs_embeds=inputs_embeds, past_key_values=DynamicCache(), use_cache=True)
        last = (lengths - 1)[:, None, None].expand(-1, 1, output.last_hidden_state.shape[-1])
        layers = output.past_key_values.layers  # no mask was needed: padding is behind all that counts
        return CausalContext(tuple(layer.keys for layer in layers), tuple(layer.values for layer in layers), mask,
                             output.last_hidden_state.gather(1, last))

    def next_log_probs(self, contexts: Sequence[CausalContext], token_offsets: Sequence[int],
                       level_sizes: Sequence[int], end_token: int | None = None,
                       over_level: bool = False) -> Callable[[int, Tensor | None, Tensor | None], Tensor]:
        """The callable that `decoding.beam` searches with; make a new one for each search.

        Args:
            contexts: of `encode`.
            token_offsets: code c of level l is row ``token_offsets[l] + c`` of both tables.
            level_sizes: codes of each level.
            end_token: the row of the end behind an identifier, given exactly where identifiers vary in length.
            over_level: normalise over what is returned, not over all R rows.

        Returns:
            ``(level, codes, parents) -> (B, W, K)`` float32, or ``(B, W, K + 1)`` with the end.
        """
        parts = [_Hypotheses(self.model, context) for context in contexts]
        sizes = [len(context) for context in contexts]

        @torch.inference_mode()
        def next_log_probs(level: int, codes: Tensor | None, parents: Tensor | None) -> Tensor:
            wanted = slice(token_offsets[level], token_offsets[level] + level_sizes[level])
            if codes is None or parents is None:
                states = [context.states for context in contexts]
            else:
                tokens = codes + token_offsets[level - 1]
                if end_token is not None:
                    tokens = tokens.masked_fill(codes == level_sizes[level - 1], end_token)
                steps = zip(parts, functional.embedding(tokens, self.embeddings).split(sizes), parents.split(sizes),
                            strict=True)
                states = [part.states(*step) for part, *step in steps]
            return torch.cat([code_log_probs(part, self.classifier, wanted, end_token, over_level) for part in states])

        return next_log_probs


class _Hypotheses:
    """What the beams of a part of the users have said so far, stored behind the prompts' keys and values."""

    def __init__(self, model: PreTrainedModel, context: CausalContext) -> None:
        self.model, self.context = model, context
        self.cache = DynamicCache()
        for layer, stored in enumerate(zip(context.keys, context.values, strict=True)):
            self.cache.update(*stored, layer)
        self.ancestors: list[Tensor] = []  # of each level said (B, W): the token that each beam descends from
        self.widths: list[int] = []

    def states(self, embedded: Tensor, parents: Tensor) -> Tensor:
        """``(B, W, D)``: one more token ``(B, W, D_in)`` of the beams that ``parents (B, W)`` continue."""
        users, width = parents.shape
        self.ancestors = [earlier.gather(1, parents) for earlier in self.ancestors]
        self.ancestors.append(torch.arange(width, device=parents.device).expand(users, -1))
        self.widths.append(width)
        own = [tokens[..., None] == torch.arange(count, device=parents.device)
               for tokens, count in zip(self.ancestors, self.widths, strict=True)]
        prompt = self.context.mask[:, None].expand(-1, width, -1)
        mask = torch.cat([prompt, *own], dim=-1)[:, None]  # (B, 1, W, T + S)
        position = self.context.mask.sum(dim=1, keepdim=True) + len(self.widths) - 1
        return self.model.base_model(inputs_embeds=embedded, attention_mask=mask, past_key_values=self.cache,
                                     position_ids=position.expand(-1, width), use_cache=True).last_hidden_state
