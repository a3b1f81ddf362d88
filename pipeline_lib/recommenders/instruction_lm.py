"""A decoder-only language model is instructed: it reads a history's codes and says those of the next item.

In its first phase it also learns what the codes of an item have to do with its text; in the second, from the best
weights of the first, the next item alone. Departure: a second phase that made validation no better is undone.

Shapes: N items, L levels, B users of a batch.
Source: Liu et al. 2024 (STORE), section 3.3; Zheng et al. 2024 (LC-Rec) with its tasks and without a second phase.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from pipeline_lib.backbones.causal_decoder import CausalDecoder
from pipeline_lib.backbones.causal_lm import Backbone, Lora, add_lora, merge_lora, restore_backbone, save_backbone
from pipeline_lib.backbones.text_tokenizer import TextTokenizer
from pipeline_lib.decoding.ranking import Decoder, RankedUsers, search_cases
from pipeline_lib.params import DecodeParams, TrainingParams
from pipeline_lib.parsing import parse
from pipeline_lib.ranges import NonNegativeInt, PositiveInt
from pipeline_lib.recommenders.code_seq2seq import make_decoder, validation_sample
from pipeline_lib.recommenders.instruction_batches import TaskBatches, prompt_tensors
from pipeline_lib.recommenders.instruction_network import (
    STARTS, InstructionLM, check_start, item_texts, require_positions, starting_lm,
)
from pipeline_lib.records import Cases, Examples, Model, RecommenderInputs
from pipeline_lib.seeding import seed_everything
from pipeline_lib.sequences.batches import in_order_batches
from pipeline_lib.sequences.instructions import (
    NEXT_ITEM, TASKS, TEXT_TO_ITEM, WORDS, Instructions, compile_instructions,
)
from pipeline_lib.training.checkpoints import Checkpoints
from pipeline_lib.training.early_stopping import no_better
from pipeline_lib.training.loop import fit
from pipeline_lib.training.validation import VALIDATION_K, mean_loss, ranking_figures

log = logging.getLogger(__name__)
WARN_ABOVE = 0.05  # share of the items of histories that have no room in a sequence
WHERE = "recommender.instruction_lm"


@dataclass(frozen=True)
class Config:
    """Options under ``recommender.instruction_lm``.

    ``start``: ``merged``, from the model that the source ``dense`` trained, its adapters merged, whose sizes then
    replace ``backbone``; or ``fresh``. ``tasks``: of the first phase; ``alignment_weight``: of the losses of those with
    texts, beside that of the next item. ``second_phase``: whether the next item alone is trained behind it.
    ``joint_epochs``, ``next_epochs``: of each phase at most, null for training.epochs, 0 for none. ``loss_on``: the
    codes of ``all`` items, or of the ``target`` alone. ``softmax``: over the whole code ``vocabulary``, or a
    ``level``. ``max_items``: of a history; ``max_tokens``: of a sequence; ``max_text``: tokens of an item's text;
    ``numbered``: whether lines have numbers.
    """

    backbone: Backbone = Backbone()
    lora: Lora = Lora(rank=128, alpha=128.0)
    start: Literal[*STARTS] = "fresh"
    tasks: tuple[Literal[*TASKS], ...] = (NEXT_ITEM, TEXT_TO_ITEM)
    alignment_weight: float = 1.0
    joint_epochs: NonNegativeInt | None = None
    second_phase: bool = True
    next_epochs: NonNegativeInt | None = None
    loss_on: Literal["all", "target"] = "all"
    softmax: Literal["vocabulary", "level"] = "vocabulary"
    max_items: PositiveInt = 20
    max_tokens: PositiveInt = 256
    max_text: PositiveInt = 32
    numbered: bool = True


def train(inputs: RecommenderInputs, config: Config, training: TrainingParams, *, checkpoints: Checkpoints,
          accelerator: Accelerator, seed: int) -> Model:
    """Train in two phases; each keeps its best epoch by validation users' ranking or loss.

    Raises:
        ValueError: for options that cannot be, or a task whose texts are missing.
    """
    check_config(config)
    seed_everything(seed)
    texts = item_texts(inputs.catalogue)
    lm, tokenizer = starting_lm(config.start, config.backbone, inputs.embedder, inputs.embedder_json,
                                [*WORDS, *texts], WHERE)
    network, instructions = _build(add_lora(lm, config.lora), tokenizer, inputs, config, texts)
    log.info("%d words, %d code tokens, %d of %d parameters train", network.first_code, len(network.level_of_row),
             sum(weight.numel() for weight in network.parameters() if weight.requires_grad),
             sum(weight.numel() for weight in network.parameters()))
    cut = instructions.share_cut(inputs.examples["train"].histories)
    if cut > WARN_ABOVE:
        log.warning("%.0f%% of the items that histories of %d may show have no room in recommender.instruction_lm.max_tokens "
                    "(%d); raise it, or set numbered=false or a smaller max_items there", 100 * cut, config.max_items,
                    config.max_tokens)
    rows = _phase(network, instructions, inputs, config, config.tasks, config.joint_epochs, training,
                  checkpoints.part("joint"), accelerator, seed)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    alone = _phase(network, instructions, inputs, config, (NEXT_ITEM,),
                   config.next_epochs if config.second_phase else 0, training, checkpoints.part("next"),
                   accelerator, seed)
    if no_better(alone, rows, training.early_stopping):
        log.info("the next item alone did not get better than the best epoch before it, which is kept")
        network.load_state_dict(before)
    rows = rows + [{**row, "epoch": row["epoch"] + len(rows)} for row in alone]
    return _saved(network, tokenizer, config, rows)


class Ranker:
    """A trained network with its prompts and the tries of its items."""

    def __init__(self, network: InstructionLM, instructions: Instructions, level_sizes: tuple[int, ...], has_ends: bool,
                 decoder: Decoder, batch_size: int, accelerator: Accelerator) -> None:
        self.network, self.instructions, self.decoder = network, instructions, decoder
        self.level_sizes, self.has_ends = level_sizes, has_ends
        self.batch_size, self.accelerator = batch_size, accelerator

    def rank(self, examples: Examples, cases: Cases, part: str = "test") -> RankedUsers:
        """Ranked items of each case; ``examples`` has one row a case, in the same order; ``part`` does not matter."""
        network = self.network.eval()
        decoder = CausalDecoder(network.lm, network.codes.weight, network.classifier.weight)
        ends = np.cumsum(self.level_sizes).tolist()
        offsets, sizes = [0, *ends], [*self.level_sizes, 0]  # with ends, one level more, which has no code

        def start(rows: np.ndarray):
            prompts = self.instructions.prompts(examples.histories.take(rows))
            batch = {name: value.to(self.accelerator.device) for name, value in prompt_tensors(prompts).items()}
            contexts = decoder.encode(network.embed(batch["input_ids"]), batch["attention_mask"])
            return lambda: decoder.next_log_probs(contexts, offsets, sizes, ends[-1] if self.has_ends else None,
                                                  over_level=network.over_level)

        batches = in_order_batches(examples.histories.lengths, self.batch_size)
        with torch.inference_mode(), self.accelerator.autocast():
            return search_cases(cases, batches, start, self.decoder, self.accelerator)


def load_ranker(model: Model, inputs: RecommenderInputs, decode: DecodeParams, *, accelerator: Accelerator,
                seed: int) -> Ranker:
    """Put a trained model back together, from its tensors and JSON alone.

    Raises:
        ValueError: if it was trained with codes of other sizes.
    """
    config = parse(Config, {name: model.config[name] for name in Config.__dataclass_fields__}, "config.json")
    lm, tokenizer = restore_backbone(model.tensors, model.config["lm"])
    network, instructions = _build(lm, tokenizer, inputs, config, texts=())
    tables = {"codes": network.codes.weight, "classifier": network.classifier.weight}
    for name, table in tables.items():
        if table.shape != model.tensors[name].shape:
            raise ValueError(f"items have {len(table)} code tokens, but the model was trained with "
                             f"{len(model.tensors[name])}; re-run finetune on these codes")
        table.data.copy_(torch.from_numpy(np.array(model.tensors[name])))
    return _ranker(network.to(accelerator.device), instructions, inputs, decode, accelerator, seed)


def check_config(config: Config) -> None:
    """Refuse options that cannot be.

    Raises:
        ValueError: naming the first of them.
    """
    check_start(config.start, config.backbone, config.max_tokens, WHERE)
    if NEXT_ITEM not in config.tasks:
        raise ValueError(f"params: recommender.instruction_lm.tasks is {', '.join(config.tasks) or 'empty'}; "
                         f"{NEXT_ITEM}, which ranking asks for, must be among them")
    if config.alignment_weight <= 0:
        raise ValueError(f"params: recommender.instruction_lm.alignment_weight is {config.alignment_weight}; expected "
                         "more than 0 (without alignment: tasks=[next_item], or ablation=no_alignment)")
    if config.joint_epochs == 0 and not config.second_phase:
        raise ValueError("params: recommender.instruction_lm.joint_epochs is 0 and second_phase is false, so nothing "
                         "would be trained; set joint_epochs=1 or more, or second_phase=true")
    if config.joint_epochs == 0 and config.next_epochs == 0:
        raise ValueError("params: recommender.instruction_lm.joint_epochs and next_epochs are both 0, so nothing would "
                         "be trained; set one of them to 1 or more, or to null for training.epochs")


def _build(lm: PreTrainedModel, tokenizer: TextTokenizer, inputs: RecommenderInputs, config: Config,
           texts: Sequence[str]) -> tuple[InstructionLM, Instructions]:
    identifiers, first_code = inputs.identifiers, lm.get_input_embeddings().num_embeddings
    require_positions(config.max_tokens, lm.config.max_position_embeddings, WHERE)
    instructions = compile_instructions(
        tokenizer.encode, end=tokenizer.id_of(tokenizer.end), first_code=first_code, codes=identifiers.codes,
        level_sizes=identifiers.level_sizes, texts=texts, max_items=config.max_items, max_tokens=config.max_tokens,
        max_text=config.max_text, numbered=config.numbered)
    has_ends = bool((identifiers.codes < 0).any())
    return InstructionLM(lm, first_code, identifiers.level_sizes, has_ends, config.softmax), instructions


def _phase(network: InstructionLM, instructions: Instructions, inputs: RecommenderInputs, config: Config,
           tasks: Sequence[str], epochs: int | None, training: TrainingParams, checkpoints: Checkpoints,
           accelerator: Accelerator, seed: int) -> list[dict[str, float]]:
    """Train on some tasks, from the weights as they are to those of the best epoch."""
    if epochs == 0:
        return []
    batches = TaskBatches(instructions, inputs.examples["train"], tasks, every_item=config.loss_on == "all",
                          batch_size=training.batch_size, bucket_batches=training.bucket_batches, seed=seed,
                          alignment_weight=config.alignment_weight)
    log.info("tasks %s: %s examples of %.1f tokens", ", ".join(tasks), [len(rows) for rows in batches.rows.values()],
             np.concatenate(list(batches.lengths.values())).mean())
    held = validation_sample(inputs.examples["valid"], inputs.split.valid, training.validate_users, seed)
    return fit(network, batches=batches.begin, collate=batches.collate,
               validate=lambda trained: _validate(trained, instructions, *held, inputs, training, accelerator, seed),
               held_out=held[1], params=replace(training, epochs=training.epochs if epochs is None else epochs),
               checkpoints=checkpoints, accelerator=accelerator)


def _validate(network: InstructionLM, instructions: Instructions, examples: Examples, cases: Cases,
              inputs: RecommenderInputs, training: TrainingParams, accelerator: Accelerator,
              seed: int) -> dict[str, float]:
    """Loss a token of the target, and NDCG and recall of the best ten items unless epochs are chosen by loss."""
    decode = DecodeParams("beam", beam_size=VALIDATION_K, top_k=VALIDATION_K,
                          filter_history=inputs.split.filter_history)
    tasks = TaskBatches(instructions, examples, (NEXT_ITEM,), every_item=False, batch_size=decode.batch_size,
                        bucket_batches=1, seed=seed)
    batches = (tasks.collate(rows) for rows in in_order_batches(examples.histories.lengths, decode.batch_size))
    figures = {"loss": mean_loss(network, batches, accelerator)}
    if training.early_stopping != "loss":
        ranked = _ranker(network, instructions, inputs, decode, accelerator, seed).rank(examples, cases)
        figures |= ranking_figures(ranked.rankings[0].items, cases.targets)
    return figures


def _ranker(network: InstructionLM, instructions: Instructions, inputs: RecommenderInputs, decode: DecodeParams,
            accelerator: Accelerator, seed: int) -> Ranker:
    codes, level_sizes = inputs.identifiers.codes, inputs.identifiers.level_sizes
    decoder = make_decoder(codes, level_sizes, inputs.split, decode, accelerator, seed)
    return Ranker(network, instructions, level_sizes, bool((codes < 0).any()), decoder, decode.batch_size, accelerator)


def _saved(network: InstructionLM, tokenizer: TextTokenizer, config: Config, rows: list[dict[str, float]]) -> Model:
    """All weights, adapters merged, so that nothing has to be downloaded to rank with them."""
    tensors, lm = save_backbone(merge_lora(network.lm), tokenizer, replace(config.backbone, pretrained=None),
                                replace(config.lora, rank=0))
    tables = {"codes": network.codes, "classifier": network.classifier}
    tensors |= {name: table.weight.detach().cpu().numpy() for name, table in tables.items()}
    return Model(tensors, {"kind": "instruction_lm", **asdict(config), "lm": lm}, rows)
