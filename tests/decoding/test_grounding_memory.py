"""Memory of grounding among a million items is that of a block, whatever the catalogue."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

NUM_ITEMS, NUM_USERS = 1_000_000, 128
WHOLE_MIB = NUM_ITEMS * NUM_USERS * 4 / 2**20  # the scores of all users and items
MEASURE = f"""
import json

import numpy as np
import torch
from accelerate import Accelerator

from pipeline_lib.decoding.grounding import ground
from pipeline_lib.decoding.ranking import ground_cases, make_grounder
from pipeline_lib.params import DecodeParams
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases
from pipeline_lib.reporting.timing import peak_memory_mib

rng = np.random.default_rng(0)
users, items = (rng.standard_normal((count, 8), dtype=np.float32) for count in ({NUM_USERS}, {NUM_ITEMS}))
histories = Ragged.from_rows([rng.permutation(5000)[:20] for _ in users])
cases = Cases(np.arange(len(users)), histories, histories.last(1), np.ones(len(users), dtype=bool))
accelerator, rows = Accelerator(cpu=True), np.arange(len(users))

def rank_among(number):
    decode = DecodeParams("ground", top_k=30, filter_history=True)
    grounder = make_grounder(items[:number], None, decode, "dot", accelerator.device, np.random.default_rng(1))
    start = peak_memory_mib()
    ranked = ground_cases(cases, [rows], lambda rows: torch.from_numpy(users[rows]), grounder, accelerator)
    return ranked.rankings[0], peak_memory_mib() - start

rank_among(5000)  # what libraries take on first use
found, in_blocks = rank_among({NUM_ITEMS})
start = peak_memory_mib()
best, scores = ground(torch.from_numpy(users), torch.from_numpy(items), 30, excluded=histories, block={NUM_ITEMS})
print(json.dumps([in_blocks, peak_memory_mib() - start, np.array_equal(found.items.values, best.flatten().numpy())]))
"""


@pytest.mark.slow
def test_blocks_bound_memory_among_a_million_items():
    done = subprocess.run([sys.executable, "-c", MEASURE], cwd=ROOT, capture_output=True, text=True, check=True)
    in_blocks, at_once, equal = json.loads(done.stdout)
    assert equal
    assert at_once > 0.4 * WHOLE_MIB  # what came before is in its peak, too: the measure sees what is avoided
    assert in_blocks < 0.25 * WHOLE_MIB
