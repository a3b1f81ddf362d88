from pipeline_lib.seeding import numpy_generator, torch_generator


def test_equal_seed_and_purpose_give_equal_draws():
    assert numpy_generator(1, "split").integers(1000, size=5).tolist() == \
        numpy_generator(1, "split").integers(1000, size=5).tolist()
    assert torch_generator(1, "x").initial_seed() == torch_generator(1, "x").initial_seed()


def test_purposes_and_seeds_are_independent_streams():
    draws = {tuple(numpy_generator(seed, purpose).integers(10**9, size=3)) for seed in (1, 2) for purpose in ("a", "b")}
    assert len(draws) == 4
