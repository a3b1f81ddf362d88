"""The tokenizer and the encoder-decoder of ETEGRec as one network, with the losses of either side's turn.

Shapes: B examples, T tokens of a history, L levels without the suffix, N items, D dimensions of an item vector, H
of its latent, W width of the network.
Source: Liu et al. 2025, "Generative Recommender with End-to-End Learnable Item Tokenization" (ETEGRec).
"""

import logging
from collections.abc import Mapping

import numpy as np
import torch
from accelerate.utils import broadcast, gather_object
from torch import Tensor, nn

from pipeline_lib.backbones.empty_share import no_rows
from pipeline_lib.quantizers.collisions import place_in_bucket, spread_full_buckets
from pipeline_lib.quantizers.residual import encode_residual, last_level_distances
from pipeline_lib.quantizers.residual_vae import ResidualVAE
from pipeline_lib.recommenders.alignment import preference_semantic_alignment, sequence_item_alignment
from pipeline_lib.recommenders.code_seq2seq import CodeSeq2Seq, Network
from pipeline_lib.records import Examples
from pipeline_lib.sequences.code_tokens import END, PAD, Vocabulary

log = logging.getLogger(__name__)
NO_ITEM = -1


class JointModel(nn.Module):
    """The recommender, the tokenizer, and two adapters that carry the recommender's states into the tokenizer's spaces.

    ``codes (N, L + 1)`` is a buffer, so that a checkpoint's codes and weights belong together. ``vectors (N, D)`` never
    change and are not saved. The last five arguments are those of `joint_seq2seq.Config`.

    Squared errors and distances are in the units of ``vectors`` as they are given, not in those that the tokenizer
    scales them to: in these the weights of the alignment losses are meant.
    """

    def __init__(self, network: Network, vocabulary: Vocabulary, tokenizer: ResidualVAE, vectors: Tensor, codes: Tensor,
                 *, sia_weight: float, psa_weight: float, sia_sign: str, temperature: float, commitment: float) -> None:
        super().__init__()
        self.vocabulary, self.weights = vocabulary, (sia_weight, psa_weight)
        self.sia_sign, self.temperature, self.commitment = sia_sign, temperature, commitment
        self.recommender = CodeSeq2Seq(network, vocabulary)
        self.tokenizer = tokenizer
        latent, dimensions = tokenizer.quantizer.codebooks.shape[-1], vectors.shape[1]
        with torch.random.fork_rng(devices=[]):  # the recommender's dropout draws what it would without adapters
            self.sequence_adapter = nn.Linear(network.width, latent)  # mean encoder state -> z^E, eq. 8
            self.preference_adapter = nn.Linear(network.width, dimensions)  # first decoder state -> h^D, eq. 10
        self.register_buffer("vectors", vectors, persistent=False)
        self.register_buffer("codes", codes)
        self.register_buffer("offsets", torch.tensor(vocabulary.level_offsets), persistent=False)
        self.trains_recommender, self.trains_tokenizer, self.aligned = True, False, False
        self.sums: dict[str, Tensor] = {}

    def take_turn(self, recommender: bool, tokenizer: bool, aligned: bool) -> None:
        """Say which sides the coming epochs train, and whether the alignment losses count."""
        self.trains_recommender, self.trains_tokenizer, self.aligned, self.sums = recommender, tokenizer, aligned, {}
        for part in (self.recommender, self.sequence_adapter, self.preference_adapter):
            part.requires_grad_(recommender)
        self.tokenizer.requires_grad_(tokenizer)

    def train(self, mode: bool = True) -> "JointModel":
        """Training mode; a recommender that is not trained now stays without dropout."""
        super().train(mode)
        self.recommender.train(mode and self.trains_recommender)
        return self

    def batch_of(self, examples: Examples, rows: np.ndarray) -> dict[str, Tensor]:
        """Token ids under the present codes, and the first row of each different target."""
        histories = torch.from_numpy(examples.histories.take(rows).padded(NO_ITEM)).long().to(self.codes.device)
        items = examples.targets.values[examples.targets.offsets[:-1][rows]]
        first = torch.from_numpy(np.sort(np.unique(items, return_index=True)[1])).to(self.codes.device)
        targets = torch.from_numpy(items).long().to(self.codes.device)
        tokens = self.codes[histories.clamp(min=0)] + self.offsets
        tokens = tokens.masked_fill((histories == NO_ITEM).unsqueeze(-1), PAD).flatten(1)
        ends = (tokens != PAD).sum(dim=1, keepdim=True)  # an item's tokens are none of them PAD
        tokens = nn.functional.pad(tokens, (0, 1), value=PAD).scatter(1, ends, END)
        return {"input_ids": tokens, "attention_mask": (tokens != PAD).long(), "labels": self.codes[targets] + self.offsets,
                "first": first, "targets": targets[first]}

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | int]:
        """The loss of this turn (eq. 12 and 13), as a sum over the terms that its main part averages."""
        if not len(batch["labels"]):  # a process may get no row of a batch, which T5 does not take
            return no_rows(self)
        sia_weight, psa_weight = self.weights if self.aligned else (0.0, 0.0)
        losses, count = {}, torch.full((), len(batch["targets"]), device=self.codes.device)
        encoded = decoded = None
        if self.trains_recommender or sia_weight or psa_weight:
            with torch.set_grad_enabled(self.trains_recommender and torch.is_grad_enabled()):
                encoded, decoded = self.recommender.states(batch)
        if self.trains_recommender:
            total, count = self.recommender.loss(decoded, batch["labels"])
            losses["recommendation"] = total / count.clamp(min=1)
        if self.trains_tokenizer or sia_weight or psa_weight:
            with torch.autocast(self.codes.device.type, enabled=False):  # by distances of 8 bits other codes are nearest
                losses |= self._tokenizer_losses(batch, encoded, decoded, sia_weight, psa_weight)
        self._note(losses, count)
        weights = {"sia": sia_weight, "psa": psa_weight}
        loss = sum(weights.get(name, 1.0) * value for name, value in losses.items() if name != "recommendation")
        return (total if self.trains_recommender else 0.0) + loss * count, count

    def _tokenizer_losses(self, batch: dict[str, Tensor], encoded: Tensor | None, decoded: Tensor | None,
                          sia_weight: float, psa_weight: float) -> dict[str, Tensor]:
        """Those of the turn that read the tokenizer, in float32; states are not needed where both weights are 0."""
        losses, targets = {}, self.vectors[batch["targets"]]
        semantics, quantized = self.tokenizer(targets)
        square = self.tokenizer.scale.square()  # of the tokenizer's unit, in squares of that of the vectors
        if self.trains_tokenizer:
            parts = self.tokenizer.losses(targets, semantics, quantized, self.commitment)
            losses["quantization"] = (parts.reconstruction + parts.quantization) / square
        if sia_weight:
            latents = self.sequence_latents(encoded.float(), batch["attention_mask"])[batch["first"]]
            distances = self.tokenizer.quantizer(latents).distances
            losses["sia"] = sequence_item_alignment(quantized.distances / square, distances / square, self.sia_sign)
        if psa_weight:
            preferences = self.preference_adapter(decoded[batch["first"], 0].float())
            losses["psa"] = preference_semantic_alignment(preferences, semantics, self.temperature)
        return losses

    def sequence_latents(self, encoded: Tensor, attention_mask: Tensor) -> Tensor:
        """``(B, H)``: z^E from the mean of encoder states ``(B, T, W)`` over tokens that are no padding."""
        mask = attention_mask.unsqueeze(-1)
        return self.sequence_adapter((encoded * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1))

    @torch.no_grad()
    def refresh_codes(self) -> float:
        """Encode all items anew, suffixes too; returns the share of items whose identifier changed.

        Items of which nothing is learned (cold ones among SASRec's vectors) may gather in one bucket while the
        tokenizer trains; those for which there is no suffix left take the nearest last code that has room.

        Raises:
            ValueError: if more items share their other codes than there is room for.
        """
        latents, codebooks = self.tokenizer.latents(self.vectors), self.tokenizer.quantizer.codebooks
        nearest, room = encode_residual(latents, codebooks)[0].cpu().numpy(), self.vocabulary.level_sizes[-1]
        codes, suffix = nearest, place_in_bucket(nearest)
        if suffix.max() >= room:
            codes = spread_full_buckets(nearest, last_level_distances(latents, codebooks).cpu().numpy(), room)
            suffix = place_in_bucket(codes)
            log.warning("%d items took another last code, since more than recommender.joint_seq2seq.suffix_size=%d "
                        "share theirs", (codes != nearest).any(axis=1).sum(), room)
        fresh = broadcast(torch.from_numpy(np.column_stack([codes, suffix])).to(self.codes))  # rounding may part processes
        changed = (fresh != self.codes).any(dim=1).float().mean().item()
        self.codes.copy_(fresh)
        return changed

    def figures(self) -> dict[str, float]:
        """The mean of each loss since the turn began, over the shares of all processes."""
        parts = gather_object([{name: total.item() for name, total in self.sums.items()}])
        sums = {name: sum(part.get(name, 0.0) for part in parts) for part in parts for name in part}
        return {f"{name}_loss": total / sums["count"] for name, total in sums.items() if name != "count"}

    def _note(self, losses: Mapping[str, Tensor], count: Tensor) -> None:
        if torch.is_grad_enabled():
            for name, value in losses.items():
                self.sums[name] = self.sums.get(name, 0.0) + value.detach().double() * count
            self.sums["count"] = self.sums.get("count", 0.0) + count.double()
