"""At scale=paper a preset has its paper's own values, those of its code where the paper says nothing.

Where docs/papers.md declares another value, it is not in the table.
"""

from functools import cache, reduce

import pytest

from pipeline_lib.params_file import compose_tree
from tests.conftest import ROOT


@cache
def tree_of(paper):
    return compose_tree(ROOT / "conf", [f"paper={paper}", "scale=paper"])


@pytest.mark.parametrize(("paper", "block", "values"), [
    ("store", "embed.dense", {
        "tokens": 4, "learning_rate": 0.0001,
        "lora": {"rank": 32, "alpha": 128.0, "dropout": 0.1, "targets": ["q_proj", "v_proj"]}}),
    ("store", "tokenizer.kmeans", {"codebook_size": 256, "dimensions": 32}),
    ("store", "sequences", {"max_items": 19, "train_targets": "last"}),  # 20 with the target; a sample a user
    ("store", "recommender.instruction_lm", {
        "tasks": ["next_item", "text_to_item"], "second_phase": True, "max_items": 19,
        "lora": {"rank": 128, "alpha": 128.0, "dropout": 0.1, "targets": ["q_proj", "v_proj"]}}),
    ("store", "training", {"batch_size": 64, "learning_rate": 0.0005, "patience": 5, "early_stopping": "ndcg@10"}),
    ("tokenrec", "embed.lightgcn", {"layers": 3, "dimensions": 64, "regularisation": 0.0001, "export": "propagated"}),
    ("tokenrec", "tokenizer.mq", {
        "levels": 3, "codebook_size": 256, "hidden": [128, 256], "latent": 512, "mask": 0.2, "commitment": 0.25,
        "epochs": 1000, "batch_size": 512, "learning_rate": 0.001, "weight_decay": 0.01}),
    ("tokenrec", "sequences", {"max_items": 100, "train_targets": "prefixes"}),
    ("tokenrec", "recommender.retrieval_lm", {
        "pretrained": "t5-small", "max_items": 100, "max_tokens": 512, "decoder_tokens": 20, "pooling": "decoder_flat",
        "loss": "cosine_margin", "similarity": "cosine", "margin": 0.0, "projection_dropout": 0.2}),
    ("tokenrec", "training", {
        "epochs": 100, "batch_size": 128, "learning_rate": 0.00005, "weight_decay": 0.01, "validate_every": 10}),
    ("etegrec", "embed.sasrec", {"dimensions": 256}),
    ("etegrec", "tokenizer.rqvae", {
        "levels": 3, "codebook_size": 256, "hidden": [512, 256], "latent": 128, "commitment": 0.25, "epochs": 10000,
        "batch_size": 1024, "learning_rate": 0.001, "weight_decay": 0.0001}),
    ("etegrec", "sequences", {"max_items": 50, "train_targets": "prefixes"}),
    ("etegrec", "recommender.joint_seq2seq", {
        "layers": 6, "heads": 4, "head_size": 64, "width": 128, "feed_forward": 512, "dropout": 0.1, "softmax": "level",
        "sia_weight": 0.0003, "psa_weight": 0.0001, "temperature": 0.07, "cycle": 2, "warmup_epochs": 10,
        "tokenizer_learning_rate": 0.0001, "suffix_size": 256, "final": "finetune", "final_epochs": 100,
        "final_learning_rate": 0.0005, "final_patience": 10}),
    ("etegrec", "training", {
        "epochs": 400, "batch_size": 2048, "learning_rate": 0.005, "weight_decay": 0.05, "clip_norm": 1.0,
        "schedule": "cosine", "patience": 15, "early_stopping": "ndcg@10"}),
    ("setrec", "embed.sasrec", {"dimensions": 64}),
    ("setrec", "tokenizer.set", {"tokens": 4, "width": 512, "hidden": [512, 256, 128]}),
    ("setrec", "sequences", {"max_items": 50, "train_targets": "prefixes"}),
    ("setrec", "recommender.set_query", {"backbone": "t5", "pretrained": "t5-small", "lora_rank": 0, "alpha": 0.7,
                                         "beta": None}),
    ("setrec", "training", {"epochs": 30, "learning_rate": 0.001, "schedule": "cosine", "early_stopping": "loss"}),
    ("tiger", "tokenizer.rqvae", {
        "levels": 3, "codebook_size": 256, "hidden": [512, 256, 128], "latent": 32, "commitment": 0.25}),
    ("tiger", "sequences", {"max_items": 20, "user_buckets": 2000}),
    ("tiger", "recommender.seq2seq", {
        "layers": 4, "heads": 6, "head_size": 64, "width": 128, "feed_forward": 1024, "dropout": 0.1}),
    ("letter", "embed.sasrec", {"dimensions": 32}),
    ("letter", "tokenizer.letter", {
        "levels": 4, "codebook_size": 256, "hidden": [2048, 1024, 512, 256, 128, 64], "latent": 32, "clusters": 10,
        "cf_weight": 0.01, "diversity_weight": 0.0001, "epochs": 20000}),
])
def test_a_preset_has_the_values_of_its_paper(paper, block, values):
    found = reduce(lambda place, name: place[name], block.split("."), tree_of(paper))
    assert {name: found[name] for name in values} == values
