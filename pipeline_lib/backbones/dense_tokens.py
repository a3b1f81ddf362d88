"""A decoder-only LM that compresses a text into dense tokens: vectors from which alone it can answer tasks on the text.

An input has four blocks: content, token, placeholder and task. The states of the token block are copied into the
placeholder block, which is all that the task block sees of the content. So an input falls into two short ones, content
with tokens and placeholders with a task, each under a plain causal mask: `DenseTokenLM` computes these. Gradients of
the second go through the copy into the first. `cascaded_logits` computes the same on the whole input under one mask.
Positions count from 0 in each of the two; rows are padded on the right, where a causal mask hides the padding.

Shapes: B texts, S tasks, m kinds of task, v dense tokens, C content tokens, A answer tokens, D width, V vocabulary,
T = C + v + v + A tokens of a whole input, P answer tokens of all tasks of a batch.
Source: Liu et al. 2024, "STORE: Streamlining Semantic Tokenization and Generative Recommendation with a Single LLM",
equation 5 and the figure of the cascaded attention.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline_lib.backbones.empty_share import no_rows
from pipeline_lib.backbones.item_losses import full_softmax_loss

CONTENT, TOKEN, PLACEHOLDER, TASK = range(4)


class DenseTokenLM(nn.Module):
    """The language model with v learned dense tokens and a learned token for each of m kinds of task.

    A batch: ``content (B, C)``, ``content_lengths (B,)``; for each task ``text (S,)``, the row of its text, ``kind
    (S,)`` below m, ``answers (S, A)`` that close with the end token, and ``answer_lengths (S,)``.
    """

    def __init__(self, model: PreTrainedModel, num_tokens: int, num_tasks: int) -> None:
        super().__init__()
        self.model = model
        words = model.get_input_embeddings().weight
        self.dense_tokens = nn.Parameter(torch.randn(num_tokens, words.shape[1]) * words.detach().std())
        self.task_tokens = nn.Parameter(torch.randn(num_tasks, words.shape[1]) * words.detach().std())

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """Cross entropy summed over the P answer tokens, and P."""
        if not len(batch["text"]):  # a process may get no row of a batch, and a text no task
            return no_rows(self)
        labels = batch["answers"][answered(batch)]
        head = self.model.get_output_embeddings().weight  # logits of all answers at once would be gigabytes
        return full_softmax_loss(self.answer_states(batch), head, labels), len(labels)

    def answer_states(self, batch: Mapping[str, Tensor]) -> Tensor:
        """``(P, D)``: the states that the answer tokens are predicted from, task after task."""
        dense = self.encode(batch["content"], batch["content_lengths"])
        return self.task_states(dense[batch["text"]], batch)

    def encode(self, content: Tensor, lengths: Tensor) -> Tensor:
        """Dense tokens ``(B, v, D)`` of ``content (B, C)``, the first ``lengths (B,)`` of each row; any may be 0."""
        count = len(self.dense_tokens)
        words = self.words(F.pad(content, (0, count)))
        at = lengths[:, None] + torch.arange(count, device=content.device)  # (B, v): right behind the content
        rows = torch.arange(len(content), device=content.device)[:, None]
        words = words.index_put((rows, at), self.dense_tokens.expand(len(content), -1, -1).to(words.dtype))
        return self.states(words)[rows, at]

    def task_states(self, dense: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """``(P, D)``, from dense tokens ``(S, v, D)`` and, of the batch, the tasks alone."""
        return self.states(self.task_inputs(dense, batch))[:, dense.shape[1] :][answered(batch)]

    def task_inputs(self, dense: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """``(S, v + A, D)``: placeholders, the task's token, the answer without its last token."""
        tasks = self.task_tokens[batch["kind"]][:, None].to(dense.dtype)
        return torch.cat([dense, tasks, self.words(batch["answers"][:, :-1])], dim=1)

    @torch.no_grad()
    def answer(self, dense: Tensor, kinds: Tensor, end_id: int, max_tokens: int) -> Tensor:
        """Greedy answers ``(S, A)`` to tasks ``kinds (S,)``, ``max_tokens`` at most, filled with ``end_id``: eq. 5."""
        words = torch.cat([dense, self.task_tokens[kinds][:, None].to(dense.dtype)], dim=1)
        found, ended = [], torch.zeros_like(kinds, dtype=torch.bool)
        while len(found) < max_tokens and not ended.all():
            best = self.model.get_output_embeddings()(self.states(words)[:, -1]).argmax(dim=-1)
            found.append(best.masked_fill(ended, end_id))
            ended = ended | (best == end_id)
            words = torch.cat([words, self.words(best[:, None])], dim=1)
        return torch.stack(found, dim=1)

    def words(self, ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(ids)

    def states(self, words: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Last hidden states; causal without a mask ``(B, 1, T, T)`` bool, and positions from 0."""
        return self.model.base_model(inputs_embeds=words, attention_mask=mask, position_ids=positions,
                                     use_cache=False).last_hidden_state


def answered(batch: Mapping[str, Tensor]) -> Tensor:
    """``(S, A)`` bool: which answer tokens there are."""
    answers = batch["answers"]
    return torch.arange(answers.shape[1], device=answers.device) < batch["answer_lengths"][:, None]


def cascaded_mask(content_lengths: Tensor, content_width: int, num_tokens: int, answer_lengths: Tensor,
                  answer_width: int) -> Tensor:
    """Which keys each query of a whole input sees, block by block.

    A block is causal within itself; tokens see all content, tasks see all placeholders, and nothing else is seen. No
    query sees padding, but padding sees itself, since a query without any key has no softmax.

    Args:
        content_lengths: ``(B,)``, of rows padded to ``content_width``.
        answer_lengths: ``(B,)``, of rows padded to ``answer_width``; as many inputs, the task's token for the last one.

    Returns:
        ``(B, 1, T, T)`` bool, queries before keys.
    """
    device = content_lengths.device
    widths = torch.tensor([content_width, num_tokens, num_tokens, answer_width], device=device)
    block = torch.repeat_interleave(torch.arange(4, device=device), widths)  # (T,)
    place = torch.arange(len(block), device=device)
    full = torch.zeros(4, 4, dtype=torch.bool, device=device)
    full[TOKEN, CONTENT] = full[TASK, PLACEHOLDER] = True
    causal = (block[:, None] == block) & (place <= place[:, None])
    starts = len(block) - answer_width
    real = ((block == CONTENT) & (place < content_lengths[:, None]) | (block == TOKEN) | (block == PLACEHOLDER)
            | (block == TASK) & (place - starts < answer_lengths[:, None]))  # (B, T)
    seen = (causal | full[block[:, None], block]) & real[:, None]
    return (seen | torch.eye(len(block), dtype=torch.bool, device=device))[:, None]


def cascaded_logits(network: DenseTokenLM, batch: Mapping[str, Tensor]) -> Tensor:
    """``(P, V)``: what `DenseTokenLM.logits` yields, but on whole inputs under `cascaded_mask`, and so slower."""
    content, lengths = batch["content"][batch["text"]], batch["content_lengths"][batch["text"]]
    (rows, width), answer_width, count = content.shape, batch["answers"].shape[1], len(network.dense_tokens)
    mask = cascaded_mask(lengths, width, count, batch["answer_lengths"], answer_width)
    first, tokens, second = (torch.arange(size, device=content.device).expand(rows, -1)
                             for size in (width, count, count + answer_width))
    positions = torch.cat([first, lengths[:, None] + tokens, second], dim=1)
    words = torch.cat([network.words(content), network.dense_tokens.expand(rows, -1, -1)], dim=1)
    dense = torch.zeros_like(words[:, width:])
    for _ in range(2):  # the dense tokens, which see no placeholder; then the tasks, which see them
        states = network.states(torch.cat([words, network.task_inputs(dense, batch)], dim=1), mask, positions)
        dense = states[:, width : width + count]
    return network.model.get_output_embeddings()(states[:, width + 2 * count :][answered(batch)])
