"""A language model reads a user's tokens and those of a history, and says one vector: the nearest items are ranked.

Nothing is decoded token by token, and an item is found by its vector alone, so a new one needs no training.
Implemented as in the paper's equations. Departures: prompts end with the text's end token, and carry no literal words
in front of codes; a share of training prompts has no history, so that the user-only form is trained on.

Shapes: B users, T tokens, S decoder tokens, N items, W width of the T5, D dimensions of item vectors.
Source: Qu et al. 2024, "TokenRec: Learning to Tokenize ID for LLM-based Generative Recommendations", section 3.4.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from pipeline_lib.backbones.empty_share import no_rows
from pipeline_lib.backbones.item_losses import full_softmax_loss
from pipeline_lib.backbones.t5 import ATTENTION, build_t5, load_t5
from pipeline_lib.backbones.text_tokenizer import TextTokenizer, load_text_tokenizer
from pipeline_lib.decoding.grounding import SIMILARITIES
from pipeline_lib.decoding.ranking import Grounder, RankedUsers, ground_cases, make_grounder
from pipeline_lib.params import DecodeParams, TrainingParams
from pipeline_lib.ranges import PositiveFloat, PositiveInt, Share, ShareBelowOne
from pipeline_lib.recommenders.prompted_batches import (
    PROMPTS, Prompter, TrainingBatches, add_code_tokens, make_prompter, prompt_tokenizer,
)
from pipeline_lib.records import Cases, Examples, Model, RecommenderInputs
from pipeline_lib.seeding import numpy_generator, seed_everything
from pipeline_lib.sequences.batches import in_order_batches
from pipeline_lib.sequences.prompts import DECODER_SENTENCE
from pipeline_lib.training.checkpoints import Checkpoints
from pipeline_lib.training.loop import fit
from pipeline_lib.training.validation import VALIDATION_K, ranking_figures, validation_rows

log = logging.getLogger(__name__)
EPSILON = 1e-12


@dataclass(frozen=True)
class Config:
    """Options under ``recommender.retrieval_lm``.

    ``pretrained``: a T5's name or folder, whose sizes replace ``layers`` to ``dropout``; ``pooling``: all decoder
    positions one behind the other (the paper), the first one, or the mean of the encoder; ``similarity``: ``cosine``
    (the paper), or ``dot``, where an item's popularity counts as far as it is in the length of its vector;
    ``temperature``: of the contrastive losses by cosine; ``user_only_share``: of training prompts, which have no
    history.
    """

    pretrained: str | None = None
    layers: PositiveInt = 4
    heads: PositiveInt = 6
    head_size: PositiveInt = 64
    width: PositiveInt = 128
    feed_forward: PositiveInt = 1024
    dropout: ShareBelowOne = 0.1
    max_items: PositiveInt = 100
    max_tokens: PositiveInt = 512
    decoder_tokens: PositiveInt = 20
    pooling: Literal["decoder_flat", "decoder_first", "encoder_mean"] = "decoder_flat"
    projection_hidden: tuple[PositiveInt, ...] = (256, 128)
    projection_dropout: ShareBelowOne = 0.2
    loss: Literal["cosine_margin", "in_batch", "full_softmax"] = "cosine_margin"
    similarity: Literal[*SIMILARITIES] = "cosine"
    margin: float = 0.0
    temperature: PositiveFloat = 0.07
    user_only_share: Share = 0.1


class RetrievalLM(nn.Module):
    """T5, projection and frozen item vectors; ``forward`` gives the loss of a batch of `TrainingBatches`."""

    def __init__(self, t5: T5ForConditionalGeneration, decoder_ids: Tensor, vectors: Tensor, config: Config) -> None:
        super().__init__()
        self.config, self.encoder, width = config, t5.encoder, t5.config.d_model
        self.decoder = None if config.pooling == "encoder_mean" else t5.decoder
        decoder_ids = decoder_ids[:1] if config.pooling == "decoder_first" else decoder_ids  # none sees those behind it
        self.register_buffer("decoder_ids", decoder_ids, persistent=False)
        lengths = vectors.norm(dim=-1, keepdim=True)
        scale = lengths.clamp(min=EPSILON) if config.similarity == "cosine" else lengths.mean()
        self.register_buffer("items", vectors / scale, persistent=False)
        flat = width * len(decoder_ids) if config.pooling == "decoder_flat" else width
        sizes = (flat, *config.projection_hidden)
        hidden = [nn.Sequential(nn.Linear(*pair), nn.ReLU(), nn.Dropout(config.projection_dropout))
                  for pair in pairwise(sizes)]
        self.projection = nn.Sequential(*hidden, nn.Linear(sizes[-1], vectors.shape[1]))

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        config, targets = self.config, batch["targets"]
        if not len(targets):  # a process may get no row of a batch, which T5 does not take
            return no_rows(self)
        states = self.states(batch)
        with torch.autocast(states.device.type, enabled=False):
            if config.loss == "cosine_margin":
                loss = cosine_margin_loss(states, self.items[targets], self.items[batch["negatives"]], config.margin)
                return loss, 2 * len(targets)
            if config.similarity == "cosine":
                states = F.normalize(states, dim=-1) / config.temperature
            if config.loss == "full_softmax":
                return full_softmax_loss(states, self.items, targets), len(targets)
            return in_batch_loss(states, self.items[targets], targets), len(targets)

    def states(self, batch: Mapping[str, Tensor]) -> Tensor:
        """``z (B, D)`` float32 from ``input_ids`` and ``attention_mask (B, T)``."""
        mask = batch["attention_mask"]
        encoded = self.encoder(batch["input_ids"], attention_mask=mask).last_hidden_state
        if self.decoder is None:
            pooled = (encoded * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        else:
            decoded = self.decoder(self.decoder_ids.expand(len(mask), -1), encoder_hidden_states=encoded,
                                   encoder_attention_mask=mask, use_cache=False).last_hidden_state
            pooled = decoded.flatten(1)  # (B, S * W)
        return self.projection(pooled).float()


def cosine_margin_loss(states: Tensor, positives: Tensor, negatives: Tensor, margin: float) -> Tensor:
    """1 - cos for positives and max(0, cos - margin) for negatives, summed over 2 B pairs: eq. 20; all ``(B, D)``."""
    to_positives = F.cosine_similarity(states, positives, dim=-1)
    to_negatives = F.cosine_similarity(states, negatives, dim=-1)
    return (1 - to_positives).sum() + (to_negatives - margin).clamp(min=0).sum()


def in_batch_loss(states: Tensor, positives: Tensor, targets: Tensor) -> Tensor:
    """InfoNCE, summed over rows: other rows' positives are negatives, but not where the item is one's own.

    Args:
        states: ``(B, D)``, scaled so that dot products are logits.
        positives: ``(B, D)``, the vectors of ``targets (B,)``. In several processes, those of a process's share.
    """
    scores = states @ positives.T
    own = torch.arange(len(targets), device=targets.device)
    same = (targets[:, None] == targets) & (own[:, None] != own)
    return F.cross_entropy(scores.masked_fill(same, -torch.inf), own, reduction="sum")


def train(inputs: RecommenderInputs, config: Config, training: TrainingParams, *, checkpoints: Checkpoints,
          accelerator: Accelerator, seed: int) -> Model:
    """Train T5, code tokens and projection; the epoch is chosen by validation users' ranking, never by unseen prompts.

    Raises:
        ValueError: for options that cannot be.
    """
    check_config(config)
    seed_everything(seed)
    plain = load_text_tokenizer(config.pretrained) if config.pretrained else prompt_tokenizer()
    tokenizer = add_code_tokens(plain, inputs.identifiers)
    prompter = make_prompter(tokenizer, inputs.identifiers, config.max_items, config.max_tokens)
    t5 = _build_t5(config, tokenizer, first_code=plain.size)
    network = RetrievalLM(t5, _decoder_ids(tokenizer, config.decoder_tokens, t5.config.decoder_start_token_id),
                          torch.from_numpy(inputs.vectors), config)
    batches = TrainingBatches(prompter, inputs.examples["train"], inputs.split, user_only_share=config.user_only_share,
                              with_negatives=config.loss == "cosine_margin", batch_size=training.batch_size,
                              bucket_batches=training.bucket_batches, seed=seed)
    cases = inputs.split.valid
    sample = validation_rows(np.arange(len(cases)), training.validate_users, seed)
    held = inputs.examples["valid"].take(sample), cases.take(sample)
    log.info("%d examples, %d text and %d code tokens, %d parameters", len(inputs.examples["train"]), plain.size,
             tokenizer.size - plain.size, sum(parameter.numel() for parameter in network.parameters()))
    decode = DecodeParams("ground", top_k=VALIDATION_K, filter_history=inputs.split.filter_history)
    grounder = _grounder(inputs, decode, config.similarity, accelerator, seed)

    def validate(trained: RetrievalLM) -> dict[str, float]:
        """NDCG and recall of the best ten items; unseen prompts are not chosen by."""
        ranker = Ranker(trained, prompter, decode.prompt, grounder, decode.batch_size, accelerator)
        return ranking_figures(ranker.rank(*held, "valid").rankings[0].items, held[1].targets)

    rows = fit(network, batches=batches.begin, collate=batches.collate, validate=validate, held_out=held[1],
               params=training, checkpoints=checkpoints, accelerator=accelerator)
    # named_parameters has tied tables once
    return Model({name: value.detach().cpu().numpy() for name, value in network.named_parameters()},
                 {"kind": "retrieval_lm", **asdict(config), "projection_hidden": list(config.projection_hidden),
                  "dimensions": inputs.vectors.shape[1], "t5": json.loads(t5.config.to_json_string()),
                  "text_tokenizer": tokenizer.to_json()}, rows)


class Ranker:
    """A trained network with the prompts of its users and the vectors of all items; ``prompt``: a key of `PROMPTS`."""

    def __init__(self, network: RetrievalLM, prompter: Prompter, prompt: str, grounder: Grounder, batch_size: int,
                 accelerator: Accelerator) -> None:
        if prompt not in PROMPTS:
            raise ValueError(f"params: decode.prompt is {prompt}; known: {', '.join(PROMPTS)}")
        self.network, self.prompter, self.template, self.grounder = network, prompter, PROMPTS[prompt], grounder
        self.batch_size, self.accelerator = batch_size, accelerator

    def states(self, examples: Examples, rows: np.ndarray, part: str) -> Tensor:
        """``z (B, D)`` of some examples; histories stay in order."""
        users, histories = examples.users[rows], examples.histories.take(rows)
        prompts = self.prompter.prompts(users, part, histories, np.full(len(rows), self.template))
        return self.network.states({name: value.to(self.accelerator.device)
                                    for name, value in self.prompter.tensors(prompts).items()})

    def rank(self, examples: Examples, cases: Cases, part: str = "test") -> RankedUsers:
        """Ranked items of each case, ``examples`` having one row a case; users have their codes of ``part``."""
        self.network.eval()
        batches = in_order_batches(self.prompter.lengths(examples.histories), self.batch_size)
        with torch.inference_mode(), self.accelerator.autocast():
            return ground_cases(cases, batches, lambda rows: self.states(examples, rows, part), self.grounder,
                                self.accelerator)


def load_ranker(model: Model, inputs: RecommenderInputs, decode: DecodeParams, *, accelerator: Accelerator,
                seed: int) -> Ranker:
    """Put a trained model back together, from its tensors and JSON alone; items are those of ``inputs.vectors``.

    Raises:
        ValueError: if the vectors or codes are not of the sizes that it was trained with.
    """
    saved = model.config
    if inputs.vectors.shape[1] != saved["dimensions"]:
        raise ValueError(f"items have {inputs.vectors.shape[1]} dimensions, but the model was trained for "
                         f"{saved['dimensions']}; re-run finetune on this embedding")
    config = Config(**{name: saved[name] for name in Config.__dataclass_fields__})
    tokenizer = TextTokenizer.from_json(saved["text_tokenizer"])
    t5 = T5ForConditionalGeneration(T5Config.from_dict(saved["t5"], attn_implementation=ATTENTION))
    network = RetrievalLM(t5, _decoder_ids(tokenizer, config.decoder_tokens, t5.config.decoder_start_token_id),
                          torch.from_numpy(inputs.vectors), config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.from_numpy(model.tensors[name]))
    prompter = make_prompter(tokenizer, inputs.identifiers, config.max_items, config.max_tokens)
    return Ranker(network.to(accelerator.device), prompter, decode.prompt,
                  _grounder(inputs, decode, config.similarity, accelerator, seed), decode.batch_size, accelerator)


def _grounder(inputs: RecommenderInputs, decode: DecodeParams, similarity: str, accelerator: Accelerator,
              seed: int) -> Grounder:
    return make_grounder(inputs.vectors, inputs.split, decode, similarity, accelerator.device,
                         numpy_generator(seed, "items of equal score"))


def _build_t5(config: Config, tokenizer: TextTokenizer, first_code: int) -> T5ForConditionalGeneration:
    """A new T5, or a pretrained one whose code tokens are drawn as wide as its words, and not all near their mean."""
    if config.pretrained is None:
        return build_t5(tokenizer.size, config.width, config.layers, config.heads, config.head_size,
                        config.feed_forward, config.dropout, pad_id=tokenizer.id_of(tokenizer.pad))
    t5 = load_t5(config.pretrained, tokenizer.size)
    words, codes = (t5.shared.weight.data[rows] for rows in (slice(first_code), slice(first_code, tokenizer.size)))
    nn.init.normal_(codes, std=float(words.std()))
    return t5


def _decoder_ids(tokenizer: TextTokenizer, length: int, start: int) -> Tensor:
    """``(S,)`` int64: the decoder's fixed sentence behind its start token, cut or padded to ``length``."""
    tokens = [start, *tokenizer.encode(DECODER_SENTENCE), tokenizer.id_of(tokenizer.end)][:length]
    return torch.tensor(tokens + [tokenizer.id_of(tokenizer.pad)] * (length - len(tokens)))


def check_config(config: Config) -> None:
    """Refuse options that cannot be.

    Raises:
        ValueError: naming the first of them.
    """
    if config.loss == "cosine_margin" and config.similarity != "cosine":
        raise ValueError("params: recommender.retrieval_lm has loss cosine_margin with similarity dot; "
                         "set similarity=cosine, or loss=full_softmax")
