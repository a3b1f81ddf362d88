"""A language model that answers YES or NO: what the two words' logits say at the end of a prompt.

Shapes: B prompts, T tokens, R code tokens, D width, V words.
Source: Liu et al. 2024 (STORE), section 3.3, the scoring task; the code loss is that of the code it names (RecBench).
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline_lib.backbones.empty_share import no_rows
from pipeline_lib.recommenders.instruction_network import embed_tokens


class YesNoLM(nn.Module):
    """A causal LM, with a table of ``num_codes`` code embeddings behind its words; no table where items are texts.

    ``answers``: the ids of YES and of NO. Their logits are the LM's own: its output rows are not copied.
    ``code_weight``: of the loss of saying the prompt's codes, by the table that they are read from.
    """

    def __init__(self, lm: PreTrainedModel, num_codes: int, answers: tuple[int, int], code_weight: float = 0.0) -> None:
        super().__init__()
        self.lm, self.answers, self.code_weight = lm, answers, code_weight
        words = lm.get_input_embeddings().weight
        self.first_code, self.codes = len(words), None
        if num_codes:
            self.codes = nn.Embedding(num_codes, words.shape[1])
            nn.init.normal_(self.codes.weight, std=float(words.detach().std()))

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """Summed binary cross-entropy of the score, and how many prompts there are; ``labels (B,)``, 1 for YES.

        With ``code_weight``, and each prompt's mean cross-entropy of the codes that ``said (B, T)`` marks.
        """
        if not len(batch["labels"]):  # a process may get no row of a batch
            return no_rows(self)
        states = self.states(batch)
        yes, no = self.answer_logits(states, batch["lengths"]).unbind(dim=-1)
        loss = F.binary_cross_entropy_with_logits(yes - no, batch["labels"].float(), reduction="sum")
        if self.codes is not None and self.code_weight > 0:
            loss = loss + self.code_weight * self.code_loss(states, batch)
        return loss, len(yes)

    def states(self, batch: Mapping[str, Tensor]) -> Tensor:
        """``(B, T, D)``, of ``input_ids (B, T)``, padded on the right, where nothing looks."""
        embedded = embed_tokens(self.lm, self.codes, self.first_code, batch["input_ids"])
        return self.lm.base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state

    def answer_logits(self, states: Tensor, lengths: Tensor) -> Tensor:
        """``(B, 2)`` float32: the logits of YES and NO behind each prompt; ``lengths (B,)``, of prompts."""
        last = states[torch.arange(len(states), device=states.device), lengths - 1]  # (B, D)
        head = self.lm.get_output_embeddings()
        with torch.autocast(last.device.type, enabled=False):  # answers of 8 bits tie
            return F.linear(last.float(), head.weight[list(self.answers)].float())

    def scores(self, batch: Mapping[str, Tensor]) -> Tensor:
        """``(B,)``: softmax([z_YES, z_NO]) at YES, between 0 and 1."""
        return self.answer_logits(self.states(batch), batch["lengths"]).softmax(dim=-1)[:, 0]

    def code_loss(self, states: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Each prompt's mean cross-entropy over R codes of those that ``said (B, T)`` marks, summed over prompts."""
        said = batch["said"][:, 1:]
        rows = batch["input_ids"][:, 1:][said] - self.first_code
        losses = F.cross_entropy(F.linear(states[:, :-1][said], self.codes.weight).float(), rows, reduction="none")
        shares = (1 / said.sum(dim=1).clamp(min=1))[:, None].expand_as(said)[said]
        return (losses * shares).sum()
