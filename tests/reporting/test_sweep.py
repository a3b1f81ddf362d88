import pytest

from pipeline_lib.reporting.sweep import sweep_points

SHOWN = """Experiment,test.all.recall@10,params.yaml:mask,lr,empty
,0.5,,1,
a,0.2,0.4,1,
b,0.1,0.2,1,
c,0.4,0.4,1,
d,,0.6,1,
"""


def test_points_stand_in_the_order_of_values_and_equal_values_are_averaged():
    points = sweep_points(SHOWN, "mask", ["test.all.recall@10"])
    assert points == {"test.all.recall@10": [(0.2, 0.1), (0.4, pytest.approx(0.3))]}


def test_a_sweep_is_of_one_method_on_one_data_set_and_counts_no_run_twice():
    shown = """Experiment,State,recall,mask,preset.dataset,tokenizer.kind
,,0.4,0.2,shop,mq
a,Success,0.4,0.2,shop,mq
b,Success,0.6,0.2,shop,mq
c,Success,0.9,0.2,shop,rqvae
d,Success,0.8,0.3,demo,mq
"""
    assert sweep_points(shown, "mask", ["recall"]) == {"recall": [(0.2, pytest.approx(0.5))]}
    wider = shown + "e,Success,0.7,0.4,demo,mq\n"  # queued there, while the workspace stood elsewhere
    assert sweep_points(wider, "mask", ["recall"]) == {"recall": [(0.3, 0.8), (0.4, 0.7)]}


def test_a_sweep_is_under_one_protocol():
    shown = """Experiment,rev,recall,mask,params.yaml:split.kind,decode.kind,split.seconds
a,1,0.3,0.2,leave_one_out,beam,0.1
b,2,0.1,0.2,by_user,beam,0.2
c,3,0.4,0.4,leave_one_out,beam,0.3
"""
    assert sweep_points(shown, "mask", ["recall"], ["mask", "split.kind", "decode.kind"]) == {"recall": [(0.2, 0.3), (0.4, 0.4)]}


def test_values_that_are_names_stand_in_the_order_of_dvc():
    shown = """Experiment,State,recall,preset.dataset,tokenizer.kind
,,0.4,shop,rqvae
a,Success,0.6,shop,rqvae
b,Success,0.3,shop,opq
c,Failed,,shop,random
d,Success,0.5,shop,7
e,Success,0.1,demo,
"""
    assert sweep_points(shown, "tokenizer.kind", ["recall"]) == {
        "recall": [("rqvae", pytest.approx(0.5)), ("opq", 0.3), (7.0, 0.5)]}


def test_a_workspace_whose_metrics_are_of_other_parameters_is_left_out():
    shown = "Experiment,rev,recall,mask\n,workspace,0.5,0.7\n,main,0.5,0.2\na,b1b2,0.6,0.4\n"
    assert sweep_points(shown, "mask", ["recall"]) == {"recall": [(0.2, 0.5), (0.4, 0.6), (0.7, 0.5)]}
    assert sweep_points(shown, "mask", ["recall"], with_workspace=False) == {"recall": [(0.2, 0.5), (0.4, 0.6)]}


@pytest.mark.parametrize(("key", "message"),
                         [("masks", "has no column masks"), ("empty", "no experiment on this commit has empty and numbers")])
def test_a_sweep_that_is_not_there_is_refused(key, message):
    with pytest.raises(ValueError, match=message):
        sweep_points(SHOWN, key, ["test.all.recall@10"])


def test_the_workspace_and_the_commit_alone_are_no_sweep():
    with pytest.raises(ValueError, match="no experiment on this commit has mask and numbers"):
        sweep_points("Experiment,rev,recall,mask\n,workspace,0.5,0.2\n,main,0.5,0.2\n", "mask", ["recall"])


def test_without_experiments_there_is_no_column():
    with pytest.raises(ValueError, match="has no column mask"):
        sweep_points("", "mask", ["test.all.recall@10"])
