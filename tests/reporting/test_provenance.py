from pathlib import Path

import pytest
import yaml

from pipeline_lib.params_file import compose_tree
from pipeline_lib.reporting.provenance import changed_keys

CONF = Path("conf").resolve()


@pytest.mark.parametrize(("overrides", "expected"), [
    (["dataset=beauty", "paper=tiger", "scale=small"], {}),
    (["seed=7"], {}),
    (["training.epochs=3", "tokenizer.kind=opq"], {"training.epochs": 3, "tokenizer.kind": "opq"}),
    (["decode.filter_history=false"], {"decode.filter_history": False}),
    (["embed.mf.filter_history=false"], {"embed.mf.filter_history": False}),
    (["decode.filter_history=false", "embed.mf.filter_history=true"], {"decode.filter_history": False}),
    (["embed.dense.backbone.layers=9"], {"embed.dense.backbone.layers": 9}),
])
def test_what_was_set_beyond_presets_is_listed_and_not_what_follows_it(overrides, expected, tmp_path):
    (tmp_path / "conf").symlink_to(CONF)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(compose_tree(CONF, overrides)), encoding="utf-8")
    assert changed_keys(tmp_path) == expected
