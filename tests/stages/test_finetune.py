from types import SimpleNamespace

from pipeline_lib.records import Model
from pipeline_lib.recommenders import dot
from stages import finetune
from tests.conftest import tiny, write_shop
from tests.stages.whole_run import run_stages


def test_training_has_the_seed_and_the_rule_that_lists_are_made_by(tmp_path, monkeypatch):
    write_shop(tmp_path / "raw", users=60, items=50)
    (tmp_path / "run").mkdir()
    given = []

    def train(inputs, options, training, *, seed, **others):
        given.append((inputs.split.filter_history, seed))
        return Model({}, {"kind": "dot", "similarity": "dot"}, [{"epoch": 0}])

    monkeypatch.setattr(finetune, "recommender_for", lambda kind: SimpleNamespace(Config=dot.Config, train=train))
    run_stages(tmp_path / "run", tiny("paper=popularity", "decode.filter_history=false", "seed=7"), tmp_path / "raw")
    assert given == [(False, 7)]
