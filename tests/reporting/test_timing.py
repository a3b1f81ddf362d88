from dataclasses import replace

import pytest

from pipeline_lib import plain_files
from pipeline_lib.reporting.timing import measure_stage, settings_digest, timings_of
from tests.reporting.test_ledger import make_params

PARAMS = make_params()
TEXT = replace(PARAMS, embed=replace(PARAMS.embed, sources=("text",)))


@pytest.fixture
def path(tmp_path):
    plain_files.write_json(tmp_path / "timing.json", {"split": {"seconds": 1.0}, "embed@sasrec": {"seconds": 2.0}})
    return tmp_path / "timing.json"


def test_a_count_also_gives_a_rate_and_other_stages_of_the_run_stay(path):
    with measure_stage("embed@text", path, TEXT) as measured:
        measured["items"] = 5
    timing = plain_files.read_json(path)
    assert timing["split"] == {"seconds": 1.0}
    assert timing["embed@text"]["items"] == 5 and timing["embed@text"]["items_per_second"] > 0
    assert timing["embed@text"]["seconds"] >= 0 and timing["embed@text"]["peak_memory_mib"] > 0


def test_stages_that_are_not_of_this_run_are_dropped(path):
    with measure_stage("quantize", path, TEXT):
        pass
    assert plain_files.read_json(path).keys() == {"split", "quantize", "hardware"}


def test_the_hardware_is_that_of_the_stage_that_ran_last(path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with measure_stage("quantize", path, TEXT):
        pass
    hardware = plain_files.read_json(path)["hardware"]
    assert hardware["threads"] == 3 and hardware["cores"] >= 1 and hardware["cpu"]


def test_a_process_that_does_not_write_leaves_the_file_as_it_is(path):
    before = path.read_bytes()
    with measure_stage("quantize", path, TEXT, write=False):
        pass
    assert path.read_bytes() == before


def test_what_another_run_left_of_a_stage_is_not_of_this_one(path):
    with measure_stage("ingest", path, TEXT):
        pass
    measured = plain_files.read_json(path)
    shop = replace(TEXT, ingest=replace(TEXT.ingest, path="data/raw/shop"))
    assert timings_of(measured, TEXT).keys() == {"split", "ingest"}  # and split, of which nothing is known
    assert timings_of(measured, shop).keys() == {"split"}


def test_settings_are_those_of_a_stage_and_of_what_is_before_it():
    longer, wider = (replace(TEXT, training=replace(TEXT.training, epochs=99)),
                     replace(TEXT, embed=replace(TEXT.embed, sources=("text", "sasrec"))))
    changed = {name: [stage for stage in TEXT.stages if settings_digest(stage, TEXT) != settings_digest(stage, other)]
               for name, other in (("longer", longer), ("wider", wider), ("seed", replace(TEXT, seed=7)))}
    assert changed["longer"] == ["finetune", "decode", "evaluate"]
    assert changed["wider"] == ["quantize", "build_sequences", "finetune", "decode", "evaluate"]
    assert changed["seed"] == list(TEXT.stages[1:])
