import re
import typing
from dataclasses import MISSING, fields, replace
from functools import cache, reduce
from itertools import chain, product
from pathlib import Path

import pytest
import yaml

from pipeline_lib.cli import check_options, compose
from pipeline_lib.interactions import reading
from pipeline_lib.params import (
    DecodeParams, EvaluateParams, IngestParams, SequencesParams, SplitParams, TokenizerParams, TrainingParams,
)
from pipeline_lib.params_file import params_from_tree
from pipeline_lib.parsing import parse
from pipeline_lib.quantizers import collisions
from pipeline_lib.recommenders import prompted_batches
from pipeline_lib.reporting.ledger import effective_params
from pipeline_lib.training import device
from pipeline_lib.variants import (
    EMBEDDINGS, KINDS, RECOMMENDERS, TOKENIZERS, check_pipeline, embedding_for, recommender_for, tokenizer_for,
)
from tests.conftest import with_paper

GROUPS = {group: sorted(path.stem for path in Path("conf", group).glob("*.yaml"))
          for group in ("dataset", "paper", "size", "scale", "ablation")}


ABLATIONS = {paper: yaml.safe_load(Path(f"conf/paper/{paper}.yaml").read_text()).get("ablations", [])
             for paper in GROUPS["paper"]}
STRANGERS = {ablation: next(paper for paper in GROUPS["paper"] if ablation not in ABLATIONS[paper])
             for ablation in GROUPS["ablation"] if ablation != "none"}


@cache
def params_of(*overrides):
    return params_from_tree(yaml.safe_load(compose(list(overrides))))


@pytest.mark.parametrize(("paper", "ablation"), [(paper, name) for paper, names in ABLATIONS.items() for name in names])
def test_every_ablation_of_a_paper_is_a_possible_pipeline_that_differs(paper, ablation):
    whole, params = (params_of(f"paper={paper}", "scale=paper", f"ablation={name}") for name in ("none", ablation))
    assert (params.preset["paper"], params.preset["ablation"]) == (paper, ablation)
    check_pipeline(params)
    check_options(params)
    assert effective_params(params) != effective_params(whole)


OTHER_CODES = ("random_codes", "rqkmeans", "no_dense_tokenizer")


@pytest.mark.parametrize(("paper", "ablation"), [(paper, name) for paper, names in ABLATIONS.items() for name in names
                                                 if name in OTHER_CODES and paper != "p5_cid"])
def test_an_ablation_of_the_codes_leaves_an_item_as_many(paper, ablation):
    """Those of P5-CID vary in length. STORE has a code a dense token."""
    whole, params = (params_of(f"paper={paper}", "scale=paper", f"ablation={name}") for name in ("none", ablation))
    dense = whole.tokenizer.kind == "kmeans"
    codes = whole.embed.options["dense"].values["tokens"] if dense else whole.tokenizer.options.values["levels"]
    assert params.tokenizer.options.values["levels"] == codes


@pytest.mark.parametrize("paper", ["letter", "tokenrec"])
def test_a_paper_s_epochs_of_its_tokenizer_are_all_trained(paper):
    options = params_of(f"paper={paper}", "scale=paper").tokenizer.options.values
    assert options["patience"] >= options["epochs"] >= 1000


@pytest.mark.parametrize(("ablation", "paper"), STRANGERS.items())
def test_an_ablation_of_another_paper_is_refused_in_one_line(ablation, paper):
    with pytest.raises(ValueError, match=f"ablation={ablation} is not one of paper={paper}, whose .* none") as caught:
        check_pipeline(params_of(f"paper={paper}", f"ablation={ablation}"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("paper", GROUPS["paper"])
def test_a_paper_refuses_all_ablations_but_its_own(paper):
    params = params_of(f"paper={paper}")
    for ablation in sorted({*GROUPS["ablation"]} - {"none", *ABLATIONS[paper]}):
        with pytest.raises(ValueError, match=f"ablation={ablation} is not one of paper={paper}"):
            check_pipeline(replace(params, preset=params.preset | {"ablation": ablation}))


def test_papers_name_ablations_that_there_are_and_every_ablation_has_a_paper():
    assert {"none", *chain.from_iterable(ABLATIONS.values())} == set(GROUPS["ablation"])


@pytest.mark.parametrize("scale", GROUPS["scale"])
def test_etegrec_and_tiger_sas_differ_in_nothing_but_the_recommender_and_its_own_options(scale):
    joint, plain = (params_of(f"paper={paper}", f"scale={scale}") for paper in ("etegrec", "tiger_sas"))
    for axis in ("embed", "tokenizer", "sequences", "training", "decode"):
        assert getattr(joint, axis) == getattr(plain, axis)
    sizes = plain.recommender.options.values
    assert {name: joint.recommender.options.values[name] for name in sizes} == sizes


def values_read(stage, tree):
    """What the params of a stage of dvc.yaml are; of embed, those of one source."""
    tree = tree | {"item": {"source": "text"}}

    def value_at(key):
        return reduce(lambda found, name: found[name], key.split("."), tree)

    keys = [re.sub(r"\$\{(.+?)\}", lambda found: value_at(found[1]), key) for key in stage["params"]]
    return {key: value_at(key) for key in keys}


@pytest.mark.parametrize("beta", ["beta_0", "beta_1"])
def test_another_beta_is_read_by_decode_and_named_by_evaluate(beta):
    stages = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
    whole, weighed = (yaml.safe_load(compose(["paper=setrec", f"ablation={name}"])) for name in ("none", beta))
    changed = [name for name, stage in stages.items() if values_read(stage, whole) != values_read(stage, weighed)]
    assert changed == ["decode", "evaluate"]


@pytest.mark.parametrize("scale", GROUPS["scale"])
def test_one_key_sets_the_size_of_every_network_from_config(scale):
    found = {}
    for size in GROUPS["size"]:
        tree = yaml.safe_load(compose(["paper=setrec", f"scale={scale}", f"size={size}"]))
        options = [tree["recommender"][kind] for kind in ("seq2seq", "joint_seq2seq", "retrieval_lm", "set_query")]
        assert not any(values.get("pretrained") for values in options)
        names = ("layers", "width", "heads", "head_size", "feed_forward")
        (found[size],) = {tuple(values[name] for name in names) for values in options}
        assert tree["tokenizer"]["set"]["width"] == found[size][1]
    assert sorted(found, key=found.get) == ["tiny", "small", "medium", "large"]


def test_a_width_may_be_given_beside_a_size_and_a_paper_keeps_its_own_without_one():
    given = params_of("paper=setrec", "scale=small", "size=medium", "recommender.set_query.width=96")
    options = given.recommender.options.values
    assert (options["layers"], options["width"], options["feed_forward"]) == (4, 96, 512)
    options = params_of("paper=setrec", "scale=paper").recommender.options.values
    assert (options["pretrained"], options["width"]) == ("t5-small", 512)
    with pytest.raises(ValueError, match="Could not find 'size/huge' .*: large medium small tiny"):
        params_of("size=huge")


@pytest.mark.parametrize(("dataset", "scale"), list(product(GROUPS["dataset"], GROUPS["scale"])))
def test_every_data_set_and_scale_is_a_possible_pipeline(dataset, scale):
    params = params_of(f"dataset={dataset}", f"scale={scale}")
    assert (params.preset["dataset"], params.preset["scale"]) == (dataset, scale)
    check_pipeline(params)


@pytest.mark.parametrize(("overrides", "message"), [
    (("tokenizer.source=sasrec",), r"tokenizer.source=sasrec is not in embed.sources \(text\)"),
    (("decode.kind=ground",), "decode.kind=ground does not fit recommender.kind=seq2seq; decoders that fit: beam, soft_beam"),
    (("recommender.kind=dot", "decode.kind=ground"),
     "tokenizer.kind=rqvae does not fit recommender.kind=dot, which reads none; tokenizers that fit: none"),
    (("recommender.kind=dot", "decode.kind=ground", "tokenizer.kind=none"),
     "tokenizer.source=text has no vectors of users, .* sources that have: lightgcn, mf, popularity, sasrec"),
    (("recommender.kind=joint_seq2seq", "tokenizer.kind=opq"),
     "tokenizer.kind=opq does not fit recommender.kind=joint_seq2seq, which trains on with rqvae; .* fit: rqvae"),
    (("recommender.kind=joint_seq2seq", "sequences.user_buckets=7"), "joint_seq2seq has no user tokens"),
    (("sequences.train_targets=windows",),
     "train_targets=windows does not fit recommender.kind=seq2seq, which would learn from the last item of a window"),
    (("paper=store", "sequences.train_targets=windows", "recommender.instruction_lm.loss_on=target"),
     "train_targets=windows does not fit recommender.kind=instruction_lm, .*; set it to prefixes, or .*loss_on=all"),
    (("tokenizer.kind=set",), "tokenizer.kind=set does not fit recommender.kind=seq2seq, which reads codes; .* fit: rqvae, "),
    (("tokenizer.kind=tiger",), "tokenizer.kind is tiger; known: "),
    (("decode.top_k=10",), "decode.top_k=10 is shorter than the largest of evaluate.ks"),
    (("decode.beam_size=20",), "decode.beam_size=20 cannot yield decode.top_k=30 items; set decode.beam_size=30"),
    (("decode.index=flat",), "decode.index=flat does not fit decode.kind=beam"),
    (("paper=lightgcn", "decode.index=lsh"), "decode.index is lsh; known: flat, ivf, hnsw, or null"),
    (("decode.beta=0.5",), "decode.beta=0.5 does not fit recommender.kind=seq2seq, .*; set decode.beta=null"),
    (("paper=setrec", "tokenizer.set.tokens=0", "recommender.set_query.use_cf=false"),
     "tokenizer.set.tokens is 0 and recommender.set_query.use_cf is false, so items have no token at all"),
    (("paper=setrec", "split.refit=true"),
     "split.refit=true leaves nobody to choose recommender.set_query.beta on, .*; set it to what the run without"),
    (("paper=tokenrec", "split.refit=true", "embed.sources=[sasrec]", "tokenizer.source=sasrec",
      "tokenizer.cf_source=sasrec"), "split.refit=true does not fit tokenizer.kind=mq with tokenizer.source=sasrec, "),
    (("paper=store_scoring", "split.candidates.source=null"), "decode.kind=score scores candidates, but .* is null"),
    (("split.candidates.source=impressions",), "impressions does not fit ingest.format=demo, which has none"),
    (("paper=etegrec", "tokenizer.collisions=none"),
     "tokenizer.collisions=none does not fit recommender.kind=joint_seq2seq, .*; set tokenizer.collisions=suffix"),
    (("tokenizer.kind=cid", "tokenizer.collisions=sinkhorn"),
     "tokenizer.collisions=sinkhorn does not fit tokenizer.kind=cid, .*; set tokenizer.collisions=none"),
    (("tokenizer.collisions=sufix",), "tokenizer.collisions is sufix; known: suffix, .*; did you mean suffix?"),
    (("paper=setrec", "tokenizer.set.width=32"), "tokenizer.set.width=32 does not fit .*; set tokenizer.set.width=48"),
    (("paper=tokenrec", "recommender.retrieval_lm.similarity=dot"),
     "recommender.retrieval_lm.similarity=dot does not fit loss=cosine_margin; set "),
    (("paper=store", "scale=paper", "tokenizer.kind=rqvae", "tokenizer.source=text", "embed.sources=[text,dense]"),
     "start=merged needs the language model of source dense, .*; set recommender.instruction_lm.start=fresh"),
    (("tokenizer.kind=kmeans",), "tokenizer.kmeans.positions=1 does not fit tokenizer.source=text, .*; set "),
    (("paper=store", "tokenizer.kmeans.positions=3"), "tokenizer.kmeans.positions=3 does not fit embed.dense.tokens=4"),
    (("+tokenizer.rqvea.levels=3",), "tokenizer.rqvea is not known; known: rqvae, .*; did you mean rqvae?"),
    (("+embed.sasrecc.layers=3",), "embed.sasrecc is not known; known: dense, .*; did you mean sasrec?"),
    (("+recommender.seq2sek.layers=3",), "recommender.seq2sek is not known; known: seq2seq, .*; did you mean seq2seq?"),
    (("embed.sources=[sasrecc]",), "embed.sources names sasrecc, .*; did you mean sasrec?"),
    (("split.kind=leave_one",), "split.kind is leave_one; known: leave_one_out, .*; did you mean leave_one_out?"),
    (("ingest.format=movielense",), "ingest.format is movielense; known: .*; did you mean movielens?"),
    (("training.schedule=linear",), "training.schedule is linear; known: cosine, inverse_sqrt, constant$"),
    (("training.early_stopping=mrr",), "training.early_stopping is mrr; known: ndcg@10, recall@10, loss"),
    (("paper=tokenrec", "training.early_stopping=loss"),
     "training.early_stopping=loss does not fit recommender.kind=retrieval_lm, .*; set it to ndcg@10 or recall@10"),
    (("split.kind=by_user", "split.unseen_user_share=0.1"), "split.unseen_user_share does not go with split.kind=by_user"),
    (("split.kind=ratio", "ingest.order=position"), "split.by=time needs real times, .*; use split.by=history"),
    (("split.kind=ratio", "split.ratios=[0.8,0.3,0.1]"), r"split.ratios is \[0.8, 0.3, 0.1\], expected shares"),
    (("split.kind=given",), "split.kind=given needs a table; set split.file to a file inside ingest.path"),
    (("decode.beta=1.5",), "decode.beta is 1.5; expected a share from 0 to 1"),
    (("split.test_users=1.5",), "split.test_users is 1.5; expected a share from 0 to below 1"),
    (("split.max_history=0",), "split.max_history is 0; expected 1 or more"),
    (("split.candidates.negatives=0",), "split.candidates.negatives is 0; expected 1 or more"),
    (("sequences.user_buckets=-4",), "sequences.user_buckets is -4; expected 0 or more"),
    (("training.learning_rate=-1",), "training.learning_rate is -1.0; expected more than 0"),
    (("training.learning_rate=nan",), "training.learning_rate is nan; expected more than 0"),
    (("training.warmup_share=3",), "training.warmup_share is 3.0; expected a share from 0 to 1"),
    (("training.validate_users=0",), "training.validate_users is 0; expected 1 or more"),
    (("tokenizer.min_utilisation=1.5",), "tokenizer.min_utilisation is 1.5; expected a share from 0 to 1"),
    (("seed=-1",), "seed is -1; expected 0 or more"),
    (("evaluate.ks=[]",), "evaluate.ks is empty; expected lengths of lists, e.g. "),
    (("ingest.order=none",), "split.kind=leave_one_out needs an order, but ingest.order=none"),
])
def test_what_cannot_be_a_pipeline_is_refused_in_one_line(overrides, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_pipeline(params_of(*with_paper(*overrides)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("overrides", [
    ("tokenizer.kind=random", "tokenizer.collisions=sinkhorn"),  # unique as drawn, where there are codes enough
    ("tokenizer.kind=opq", "tokenizer.collisions=sinkhorn"),
    ("tokenizer.kind=cid", "recommender.seq2seq.softmax=level"),  # where all clusters are cut equally often
    ("paper=tokenrec", "split.refit=true"),
    ("paper=setrec", "split.refit=true", "recommender.set_query.beta=0.4"),
    ("tokenizer.kind=kmeans", "tokenizer.kmeans.positions=4"),
    ("paper=store", "tokenizer.kmeans.positions=4"),
    ("paper=store", "tokenizer.kind=mq"),
    ("paper=setrec", "scale=paper", "tokenizer.set.width=512", "recommender.set_query.width=64"),  # that of t5-small
    ("paper=tokenrec", "recommender.retrieval_lm.similarity=dot", "recommender.retrieval_lm.loss=full_softmax"),
])
def test_what_can_work_is_not_refused(overrides):
    params = params_of(*with_paper(*overrides))
    check_pipeline(params)
    check_options(params)


@pytest.mark.parametrize("scale", GROUPS["scale"])
@pytest.mark.parametrize("paper", GROUPS["paper"])
def test_every_paper_is_a_possible_pipeline_at_every_scale(paper, scale):
    params = params_of(f"paper={paper}", f"scale={scale}")
    check_pipeline(params)
    check_options(params)


@pytest.mark.parametrize(("override", "message"), [
    ("+tokenizer.kmeans.levles=3", "tokenizer.kmeans.levles is not known; known: "),
    ("+tokenizer.rqvae.levles=3", "tokenizer.rqvae.levles is not known; .*; did you mean levels?"),  # not chosen
    ("recommender.seq2seq.layers=two", "recommender.seq2seq.layers is 'two', expected int"),
    ("+embed.text.encodr=lsa", "embed.text.encodr is not known; .*; did you mean encoder?"),
    ("paper=tiger embed.text.batch_size=0", "embed.text.batch_size is 0; expected 1 or more"),
    ("paper=sasrec embed.sasrec.batch_size=0", "embed.sasrec.batch_size is 0; expected 1 or more"),
    ("paper=mf embed.mf.epochs=0", "embed.mf.epochs is 0; expected 1 or more"),
    ("paper=lightgcn embed.lightgcn.layers=-1", "embed.lightgcn.layers is -1; expected 0 or more"),
    ("paper=store embed.dense.validation_share=1.0", "embed.dense.validation_share is 1.0; expected a share above 0"),
    ("paper=letter tokenizer.letter.clusters=1000", "tokenizer.letter.clusters=1000, but a codebook of "),
    ("tokenizer.letter.clusters=0", "tokenizer.letter.clusters is 0; expected 1 or more"),
    ("tokenizer.letter.cf_weight=-1.0", "tokenizer.letter.cf_weight is -1.0; expected 0 or more"),
    ("tokenizer.rqvae.levels=0", "tokenizer.rqvae.levels is 0; expected 1 or more"),
    ("tokenizer.rqvae.hidden=[8,0]", r"tokenizer.rqvae.hidden\[1\] is 0; expected 1 or more"),
    ("tokenizer.kmeans.dimensions=0", "tokenizer.kmeans.dimensions is 0; expected 1 or more"),
    ("tokenizer.set.tokens=-1", "tokenizer.set.tokens is -1; expected 0 or more"),
    ("tokenizer.mq.mask=1.0", "tokenizer.mq.mask is 1.0; expected a share from 0 to below 1"),
    ("tokenizer.cid.clusters=1", "tokenizer.cid.clusters is 1; expected 2 or more"),
    ("tokenizer.sequential.codebook_size=1", "tokenizer.sequential.codebook_size is 1; expected 2 or more"),
    ("tokenizer.kind=opq tokenizer.opq.codebook_size=100", "tokenizer.opq.codebook_size=100 is not a power of two"),
    ("recommender.seq2seq.softmax_temperature=0", "recommender.seq2seq.softmax_temperature is 0.0; expected more than 0"),
    ("recommender.seq2seq.heads=0", "recommender.seq2seq.heads is 0; expected 1 or more"),
    ("embed.sasrec.heads=0", "embed.sasrec.heads is 0; expected 1 or more"),
    ("paper=sasrec embed.sasrec.heads=3", "embed.sasrec.dimensions is .*, which 3 heads do not divide"),
    ("embed.dense.lora.rank=-1", "embed.dense.lora.rank is -1; expected 0 or more"),
    ("paper=store embed.dense.backbone.heads=5", "embed.dense.backbone.width is .* but there are 5 heads"),
    ("paper=store recommender.instruction_lm.start=fresh recommender.instruction_lm.max_tokens=100000",
     "instruction_lm.max_tokens is 100000, but the language model has "),
    ("tokenizer.random_id.digits=0", "tokenizer.random_id.digits is 0; expected 1 or more"),
    ("recommender.set_query.beta=1.5", "recommender.set_query.beta is 1.5; expected a share from 0 to 1"),
    ("recommender.retrieval_lm.user_only_share=-0.5", "retrieval_lm.user_only_share is -0.5; expected a share from 0 to 1"),
    ("paper=setrec recommender.set_query.backbone=causal_lm recommender.set_query.history=bidirectional",
     "history=bidirectional does not fit backbone=causal_lm"),
    ("paper=store_scoring recommender.scoring_lm.inputs=text_zero_shot recommender.scoring_lm.start=fresh",
     "inputs=text_zero_shot asks a language model as it is"),
    ("embed.sasrec.loss=hinge", "embed.sasrec.loss is hinge; known: full, sampled, bce"),
    ("embed.lightgcn.export=layer0", "embed.lightgcn.export is layer0; known: propagated, ego"),
    ("embed.dense.schedule=linear", "embed.dense.schedule is linear; known: cosine, inverse_sqrt, constant"),
    ("embed.dense.backbone.family=llama", "embed.dense.backbone.family is llama; known: opt, qwen2, gpt2"),
    ("recommender.dot.similarity=l2", "recommender.dot.similarity is l2; known: dot, cosine"),
    ("recommender.seq2seq.softmax=words", "recommender.seq2seq.softmax is words; known: vocabulary, level"),
    ("recommender.joint_seq2seq.final=twice", "recommender.joint_seq2seq.final is twice; known: finetune, retrain, none"),
    ("recommender.joint_seq2seq.sia_sign=no", "recommender.joint_seq2seq.sia_sign is no; known: minus, plus"),
    ("recommender.joint_seq2seq.residual_gradient=half", "residual_gradient is half; known: identity, zero"),
    ("recommender.instruction_lm.start=anew", "recommender.instruction_lm.start is anew; known: merged, fresh"),
    ("recommender.instruction_lm.loss_on=some", "recommender.instruction_lm.loss_on is some; known: all, target"),
    ("recommender.instruction_lm.softmax=words", "instruction_lm.softmax is words; known: vocabulary, level"),
    ("recommender.instruction_lm.tasks=[next_item,sing]", r"tasks\[1\] is sing; known: next_item, text_to_item, item_to_text"),
    ("recommender.scoring_lm.inputs=pictures", "scoring_lm.inputs is pictures; known: codes, text, text_zero_shot"),
    ("recommender.scoring_lm.early_stopping=recall@10", "scoring_lm.early_stopping is recall@10; known: loss, auc"),
    ("recommender.retrieval_lm.pooling=last", "recommender.retrieval_lm.pooling is last; known: decoder_flat"),
    ("recommender.retrieval_lm.loss=bpr", "recommender.retrieval_lm.loss is bpr; known: cosine_margin"),
    ("recommender.set_query.backbone=bert", "recommender.set_query.backbone is bert; known: t5, causal_lm"),
])
def test_options_that_cannot_be_are_refused_before_anything_runs(override, message):
    with pytest.raises(ValueError, match=message):
        check_options(params_of(*override.split()))


def test_defaults_of_the_library_are_those_of_the_configuration():
    tree = yaml.safe_load(Path("conf/config.yaml").read_text(encoding="utf-8"))
    records = {"ingest": IngestParams, "split": SplitParams, "sequences": SequencesParams, "training": TrainingParams,
               "decode": DecodeParams, "evaluate": EvaluateParams}
    blocks = [(record, tree[name]) for name, record in records.items()]
    blocks += [(module_of(kind).Config, tree[axis].get(kind, {})) for axis, module_of in
               (("embed", embedding_for), ("tokenizer", tokenizer_for), ("recommender", recommender_for))
               for kind in KINDS[axis]]
    for record, block in blocks:
        written = {key: value for key, value in block.items() if "${" not in str(value)}  # others follow another key
        required = {field.name for field in fields(record) if field.default is field.default_factory is MISSING}
        least = {key: value for key, value in written.items() if key in required}
        assert parse(record, written, "all") == parse(record, least, "least")


def test_values_of_kinds_that_are_not_chosen_do_not_matter():
    check_options(params_of("paper=tiger", "recommender.instruction_lm.alignment_weight=-1.0"))


@pytest.mark.parametrize(("overrides", "message"), [
    (("recommender.instruction_lm.second_phase=false",),
     "joint_epochs is 0 and second_phase is false, .*; set joint_epochs=1 or more, or second_phase=true"),
    (("recommender.instruction_lm.next_epochs=0",),
     "joint_epochs and next_epochs are both 0, .*; set one of them to 1 or more"),
])
def test_a_language_model_that_would_not_be_trained_is_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        check_options(params_of("recommender.instruction_lm.joint_epochs=0", *overrides))


def test_values_that_parameters_name_are_those_that_the_library_knows():
    hints = {name: typing.get_type_hints(part) for name, part in
             {"ingest": IngestParams, "split": SplitParams, "training": TrainingParams, "decode": DecodeParams,
              "tokenizer": TokenizerParams}.items()}
    known = {("ingest", "format"): (*reading.READERS, "demo"), ("ingest", "order"): reading.ORDERS,
             ("training", "precision"): tuple(device.PRECISIONS),
             ("decode", "prompt"): tuple(prompted_batches.PROMPTS), ("tokenizer", "collisions"): collisions.KINDS}
    assert {key: typing.get_args(hints[key[0]][key[1]]) for key in known} == known


@pytest.mark.parametrize(("paper", "source"), [("tiger", "text"), ("store", "dense")])
def test_a_source_of_texts_on_data_without_text_is_refused_before_anything_runs(paper, source):
    with pytest.raises(ValueError, match=f"embed.sources names {source}, but ingest.text is empty"):
        check_options(params_of("dataset=lastfm", f"paper={paper}"))


@pytest.mark.parametrize("paper", ["popularity", "mf", "lightgcn", "sasrec", "tiger_sas", "etegrec", "tokenrec", "e4srec",
                                   "p5_cid"])
def test_methods_that_need_no_text_are_possible_on_data_without_text(paper):
    params = params_of("dataset=lastfm", f"paper={paper}", "scale=small")
    check_pipeline(params)
    check_options(params)


def test_every_kind_of_the_registry_has_a_block_of_options_and_the_other_way_round():
    tree = yaml.safe_load(compose([]))
    for axis, table in (("embed", EMBEDDINGS), ("tokenizer", TOKENIZERS), ("recommender", RECOMMENDERS)):
        blocks = {name for name, value in tree[axis].items() if isinstance(value, dict)}
        assert blocks == set(table)
