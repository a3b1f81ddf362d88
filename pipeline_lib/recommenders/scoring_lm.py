"""A language model scores one candidate at a time: it reads a history and an item, and answers YES or NO.

Items are read as their codes or as their texts; zero-shot, a pretrained model is asked as it is. Where codes are read,
those of the history, and of a wanted candidate, are also to be said: of an unwanted one they would be the wrong answer.

Shapes: N items, m candidates, u users with candidates, B prompts of a batch.
Source: Liu et al. 2024 (STORE), section 3.3 and Table 5.
"""

import logging
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from pipeline_lib.backbones.causal_lm import Backbone, Lora, add_lora, merge_lora, restore_backbone, save_backbone
from pipeline_lib.backbones.text_tokenizer import TextTokenizer
from pipeline_lib.evaluation.scoring import scoring_figures
from pipeline_lib.params import DecodeParams, TrainingParams
from pipeline_lib.parsing import parse
from pipeline_lib.ranges import NonNegativeFloat, PositiveInt
from pipeline_lib.recommenders.instruction_network import (
    STARTS, check_start, item_texts, require_positions, starting_lm,
)
from pipeline_lib.recommenders.yes_no_network import YesNoLM
from pipeline_lib.recommenders.yes_no_pairs import Pairs, score_pairs
from pipeline_lib.records import Model, RecommenderInputs, Split
from pipeline_lib.seeding import numpy_generator, seed_everything
from pipeline_lib.sequences.batches import length_bucketed_batches
from pipeline_lib.sequences.prompts import code_tokens
from pipeline_lib.sequences.yes_no_prompts import NO, WORDS, YES, YesNoPrompts, compile_yes_no_prompts, text_tokens
from pipeline_lib.training.checkpoints import Checkpoints
from pipeline_lib.training.loop import fit
from pipeline_lib.training.validation import validation_rows

log = logging.getLogger(__name__)
KS = (1, 5, 10)
FIGURES = ("loss", "auc", "group_auc", "mrr", *(f"ndcg@{k}" for k in KS))
WHERE = "recommender.scoring_lm"


@dataclass(frozen=True)
class Config:
    """Options under ``recommender.scoring_lm``.

    ``inputs``: items as ``codes``, as ``text``, or ``text_zero_shot``, where nothing is trained. ``start``: ``merged``,
    from the model that the source ``dense`` trained, whose sizes then replace ``backbone``; or ``fresh``.
    ``code_weight``: of the loss of saying codes, 0 for the answer's alone.
    ``max_items``: of a history; ``max_tokens``: of a prompt; ``max_text``: tokens of an item's text; ``numbered``:
    whether lines have numbers; ``early_stopping``: the figure that chooses the epoch, in place of
    training.early_stopping, which names a figure of ranked lists.
    """

    backbone: Backbone = Backbone()
    lora: Lora = Lora(rank=128, alpha=128.0)
    start: Literal[*STARTS] = "fresh"
    inputs: Literal["codes", "text", "text_zero_shot"] = "codes"
    code_weight: NonNegativeFloat = 1.0
    max_items: PositiveInt = 20
    max_tokens: PositiveInt = 512
    max_text: PositiveInt = 16
    numbered: bool = True
    early_stopping: Literal[*FIGURES] = "auc"


def train(inputs: RecommenderInputs, config: Config, training: TrainingParams, *, checkpoints: Checkpoints,
          accelerator: Accelerator, seed: int) -> Model:
    """Train on the candidates of training users; the epoch is chosen on those of validation users.

    Raises:
        ValueError: for options that cannot be, or a split without candidates.
    """
    check_config(config)
    _refuse_no_candidates(inputs)
    training = replace(training, early_stopping=config.early_stopping)
    seed_everything(seed)
    lm, tokenizer = starting_lm(config.start, config.backbone, inputs.embedder, inputs.embedder_json,
                                [*WORDS, *item_texts(inputs.catalogue)], WHERE)
    lm, tokenizer = with_answers(lm, tokenizer, config)
    lora = replace(config.lora, rank=0) if config.inputs == "text_zero_shot" else config.lora
    network, prompts = _build(add_lora(lm, lora), tokenizer, inputs, config)
    rows = []
    if config.inputs != "text_zero_shot":
        rows = _fit(network, prompts[_shown(config)], inputs, training, checkpoints, accelerator, seed)
    return _saved(network, tokenizer, config, rows)


class Ranker:
    """A trained network with ``prompts`` by how items are given, of which those of ``inputs`` are read."""

    def __init__(self, network: YesNoLM, prompts: dict[str, YesNoPrompts], inputs: str, split: Split, batch_size: int,
                 accelerator: Accelerator) -> None:
        self.network, self.prompts, self.inputs, self.split = network, prompts, inputs, split
        self.batch_size, self.accelerator = batch_size, accelerator

    def score(self, part: str) -> np.ndarray:
        """``(m,)`` float32: the probability of YES for each of ``split.candidates[part]``."""
        pairs = Pairs(self.prompts[self.inputs], self.split, part, self.split.candidates[part])
        return score_pairs(self.network, pairs, self.batch_size, self.accelerator)

    def prompt_tokens(self, part: str) -> dict[str, float]:
        """``codes`` and, where items have texts, ``text``: mean tokens of a prompt, the cost of asking either way."""
        candidates = self.split.candidates[part]
        return {name: float(Pairs(prompts, self.split, part, candidates).lengths.mean())
                for name, prompts in self.prompts.items()}


def load_ranker(model: Model, inputs: RecommenderInputs, decode: DecodeParams, *, accelerator: Accelerator,
                seed: int) -> Ranker:
    """Put a trained model back together, from its tensors and JSON alone.

    Raises:
        ValueError: if it was trained with codes of other sizes, or the split has no candidates.
    """
    config = parse(Config, {name: model.config[name] for name in Config.__dataclass_fields__}, "config.json")
    _refuse_no_candidates(inputs)
    lm, tokenizer = restore_backbone(model.tensors, model.config["lm"])
    network, prompts = _build(lm, tokenizer, inputs, config)
    if network.codes is not None:
        if network.codes.weight.shape != model.tensors["codes"].shape:
            raise ValueError(f"items have {len(network.codes.weight)} code tokens, but the model was trained with "
                             f"{len(model.tensors['codes'])}; re-run finetune on these codes")
        network.codes.weight.data.copy_(torch.from_numpy(np.array(model.tensors["codes"])))
    return Ranker(network.to(accelerator.device), prompts, _shown(config), inputs.split, decode.batch_size, accelerator)


def with_answers(lm: PreTrainedModel, tokenizer: TextTokenizer,
                 config: Config) -> tuple[PreTrainedModel, TextTokenizer]:
    """A model and tokenizer to which YES and NO are one token each; a tokenizer of our own gets what it lacks.

    Raises:
        ValueError: if a pretrained tokenizer, or a model that is asked zero-shot, does not have them.
    """
    missing = [word for word in (YES, NO) if len(tokenizer.encode(word)) != 1]
    if not missing:
        return lm, tokenizer
    if config.backbone.pretrained is not None or config.inputs == "text_zero_shot":
        pieces = len(tokenizer.encode(missing[0]))
        raise ValueError(f"the text tokenizer writes {missing[0]} as {pieces} tokens, but an answer must be one that "
                         f"the model knows; take another {WHERE}.backbone.pretrained" + (
                             ", or inputs=text, which trains" if config.inputs == "text_zero_shot" else ""))
    tokenizer = tokenizer.with_tokens(missing)
    if tokenizer.size > lm.get_input_embeddings().num_embeddings:
        lm.resize_token_embeddings(tokenizer.size, mean_resizing=False)
    return lm, tokenizer


def check_config(config: Config) -> None:
    """Refuse options that cannot be.

    Raises:
        ValueError: naming the first of them.
    """
    check_start(config.start, config.backbone, config.max_tokens, WHERE)
    if config.inputs == "text_zero_shot" and config.start == "fresh" and config.backbone.pretrained is None:
        raise ValueError(f"params: {WHERE}.inputs=text_zero_shot asks a language model as it is, but {WHERE}.backbone "
                         "is built new; set backbone.pretrained, or inputs=text")


def _refuse_no_candidates(inputs: RecommenderInputs) -> None:
    if not inputs.split.candidates:
        raise ValueError("the split has no candidates to score; set split.candidates.source to sampled or impressions, "
                         "and re-run split")


def _shown(config: Config) -> str:
    return "codes" if config.inputs == "codes" else "text"


def _build(lm: PreTrainedModel, tokenizer: TextTokenizer, inputs: RecommenderInputs,
           config: Config) -> tuple[YesNoLM, dict[str, YesNoPrompts]]:
    """The network, and prompts of ``codes`` and, where items have texts, of ``text``."""
    identifiers, first_code = inputs.identifiers, lm.get_input_embeddings().num_embeddings
    require_positions(config.max_tokens, lm.config.max_position_embeddings, WHERE)
    items = {"codes": code_tokens(identifiers.codes, identifiers.level_sizes, first_code)}
    texts = item_texts(inputs.catalogue)
    if any(texts) or config.inputs != "codes":
        items["text"] = text_tokens(tokenizer.encode_all, texts or [""] * len(identifiers.codes), config.max_text)
    prompts = {name: compile_yes_no_prompts(tokenizer.encode, tokens, max_items=config.max_items,
                                            max_tokens=config.max_tokens, numbered=config.numbered)
               for name, tokens in items.items()}
    answers = tokenizer.encode(YES)[0], tokenizer.encode(NO)[0]
    num_codes = sum(identifiers.level_sizes) if config.inputs == "codes" else 0
    return YesNoLM(lm, num_codes, answers, config.code_weight), prompts


def _fit(network: YesNoLM, prompts: YesNoPrompts, inputs: RecommenderInputs, training: TrainingParams,
         checkpoints: Checkpoints, accelerator: Accelerator, seed: int) -> list[dict[str, float]]:
    split = inputs.split
    pairs = Pairs(prompts, split, "train", split.candidates["train"])
    candidates = split.candidates["valid"]
    users = validation_rows(np.unique(candidates.users), training.validate_users, seed)
    held = Pairs(prompts, split, "valid", candidates.take(np.flatnonzero(np.isin(candidates.users, users))))
    log.info("%d prompts of %.1f tokens to train on, %d to validate; %d parameters train", len(pairs.rows),
             pairs.lengths.mean(), len(held.rows),
             sum(weight.numel() for weight in network.parameters() if weight.requires_grad))

    def begin(epoch: int) -> list[np.ndarray]:
        return length_bucketed_batches(pairs.lengths, training.batch_size, training.bucket_batches,
                                       numpy_generator(seed, f"candidates of epoch {epoch}"))

    return fit(network, batches=begin, collate=pairs.collate,
               validate=lambda trained: _validate(trained, held, training.batch_size, accelerator),
               held_out=held.candidates, params=training, checkpoints=checkpoints, accelerator=accelerator)


def _validate(network: YesNoLM, pairs: Pairs, batch_size: int, accelerator: Accelerator) -> dict[str, float]:
    scores, labels = score_pairs(network, pairs, batch_size, accelerator), pairs.candidates.labels
    right = np.where(labels == 1, scores, 1 - scores).astype(np.float64)
    measured = scoring_figures(pairs.candidates.users, labels, scores, KS)
    return {"loss": float(-np.log(right.clip(min=1e-12)).mean()), **{name: measured[name] for name in FIGURES[1:]}}


def _saved(network: YesNoLM, tokenizer: TextTokenizer, config: Config, rows: list[dict[str, float]]) -> Model:
    """All weights, adapters merged, so that nothing has to be downloaded to score with them."""
    tensors, lm = save_backbone(merge_lora(network.lm), tokenizer, replace(config.backbone, pretrained=None),
                                replace(config.lora, rank=0))
    if network.codes is not None:
        tensors["codes"] = network.codes.weight.detach().cpu().numpy()
    return Model(tensors, {"kind": "scoring_lm", **asdict(config), "lm": lm}, rows)
