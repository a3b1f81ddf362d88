import pytest

from pipeline_lib import plain_files
from pipeline_lib.reporting.timing import measure_stage

STAGES = ("split", "embed@text", "quantize")


@pytest.fixture
def path(tmp_path):
    plain_files.write_json(tmp_path / "timing.json", {"split": {"seconds": 1.0}, "embed@sasrec": {"seconds": 2.0}})
    return tmp_path / "timing.json"


def test_a_count_also_gives_a_rate_and_other_stages_of_the_run_stay(path):
    with measure_stage("embed@text", path, STAGES) as measured:
        measured["items"] = 5
    timing = plain_files.read_json(path)
    assert timing["split"] == {"seconds": 1.0}
    assert timing["embed@text"]["items"] == 5 and timing["embed@text"]["items_per_second"] > 0
    assert timing["embed@text"]["seconds"] >= 0 and timing["embed@text"]["peak_memory_mib"] > 0


def test_stages_that_are_not_of_this_run_are_dropped(path):
    with measure_stage("quantize", path, STAGES):
        pass
    assert plain_files.read_json(path).keys() == {"split", "quantize", "hardware"}


def test_the_hardware_is_that_of_the_stage_that_ran_last(path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with measure_stage("quantize", path, STAGES):
        pass
    hardware = plain_files.read_json(path)["hardware"]
    assert hardware["threads"] == 3 and hardware["cores"] >= 1 and hardware["cpu"]


def test_a_process_that_does_not_write_leaves_the_file_as_it_is(path):
    before = path.read_bytes()
    with measure_stage("quantize", path, STAGES, write=False):
        pass
    assert path.read_bytes() == before
