"""Of STORE's checklist: 5 (what is supervised, and how many samples an item yields)."""

import numpy as np
import pytest

from pipeline_lib.backbones.text_tokenizer import train_byte_tokenizer
from pipeline_lib.embeddings.attribute_tasks import (
    attribute_tasks, attribute_values, choose_attributes, training_texts,
)
from pipeline_lib.records import Catalogue

CATALOGUE = Catalogue(["a", "b", "c"], ["red tent", "", "blue  tent\nbig"], ["", "", ""], {
    "brand": ["Camp", None, ""], "categories": [["Tents", "Big"], [], ["Tents"]], "price": ["9.99", "3", "4"]})


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_tokenizer(training_texts(CATALOGUE, ("title", "brand", "categories")), 300)


@pytest.fixture(scope="module")
def tasks(tokenizer):
    return attribute_tasks(CATALOGUE, ("title", "brand"), ("categories",), tokenizer, max_tokens=20)


def test_content_and_answers_worked_by_hand(tasks, tokenizer):
    assert [tokenizer.decode(row) for row in tasks.content] == [
        "title: red tent\nbrand: Camp\n", "", "title: blue tent big\n"]
    assert tasks.kinds.tolist() == [0, 1, 2, 0, 2]
    assert [tokenizer.decode(row[:-1]) for row in tasks.answers] == [
        " red tent", " Camp", " Tents, Big", " blue tent big", " Tents"]
    assert all(row[-1] == tokenizer.id_of("</s>") for row in tasks.answers)
    assert [row.tolist() for row in tasks.by_item] == [[0, 1, 2], [], [3, 4]]


def test_an_answer_has_the_tokens_that_the_content_shows(tasks):
    shown, answer = tasks.content[0].tolist(), tasks.answers[0].tolist()[:-1]
    assert any(shown[at : at + len(answer)] == answer for at in range(len(shown)))


def test_a_batch_holds_each_item_once_and_all_of_its_tasks(tasks, tokenizer):
    batch = tasks.collate(np.array([2, 1, 0]))
    assert batch["content_lengths"].tolist() == [len(tasks.content[item]) for item in (2, 1, 0)]
    assert batch["text"].tolist() == [0, 0, 2, 2, 2] and batch["kind"].tolist() == [0, 2, 0, 1, 2]
    for row, task in enumerate([3, 4, 0, 1, 2]):
        length = int(batch["answer_lengths"][row])
        assert batch["answers"][row, :length].tolist() == tasks.answers[task].tolist()
    assert tasks.lengths.tolist() == [
        len(tasks.content[item]) + sum(len(tasks.answers[task]) for task in tasks.by_item[item]) for item in range(3)]


def test_a_batch_of_items_without_tasks_and_of_none_at_all(tasks):
    assert tasks.collate(np.array([1]))["text"].shape == (0,)
    assert tasks.collate(np.array([], dtype=int))["content"].shape == (0, 0)


def test_long_values_are_cut_in_both_places(tokenizer):
    cut = attribute_tasks(CATALOGUE, ("title",), (), tokenizer, max_tokens=1)
    assert cut.answers.lengths.tolist() == [2, 2]
    assert cut.content.lengths.tolist() == [len(tokenizer.encode("title:")) + 2, 0, len(tokenizer.encode("title:")) + 2]


def test_values_are_joined_and_missing_ones_empty():
    assert attribute_values(CATALOGUE, "categories") == ["Tents, Big", "", "Tents"]
    assert attribute_values(CATALOGUE, "brand") == ["Camp", "", ""]
    assert attribute_values(CATALOGUE, "title") == ["red tent", "", "blue tent big"]
    assert attribute_values(CATALOGUE, "colour") == ["", "", ""]


def test_without_a_choice_the_title_and_attributes_of_text_are_shown():
    assert choose_attributes(CATALOGUE, (), ()) == ("title", "brand", "categories")
    assert choose_attributes(CATALOGUE, (), ("categories",)) == ("title", "brand")
    assert choose_attributes(CATALOGUE, ("price",), ()) == ("price",)
    texts_alone = Catalogue(["a"], [""], ["a tent"])
    assert choose_attributes(texts_alone, (), ()) == ("text",)


@pytest.mark.parametrize("values, shown", [
    (["k7Sy557_ZaQS", "tvZKPah2u9G9", "saWZO6h", "B0012"], False),  # ids: each item's own, most with a digit
    (["k7Sy557_ZaQS", "tvZKPah2u9G9", "saWZO6h", "saWZO6h"], True),  # two items share one, which says something
    (["k7Sy557_ZaQS", "tvZKPah2u9G9", "saWZO6h", "size 2"], True),  # of two words
    (["Camp", "Glow", "3M", "Acme"], True),  # names
    (["12", "13", "7"], False),
])
def test_ids_and_numbers_are_no_texts(values, shown):
    count = len(values)
    catalogue = Catalogue([str(row) for row in range(count)], ["tent"] * count, [""] * count, {"own": values})
    assert choose_attributes(catalogue, (), ()) == (("title", "own") if shown else ("title",))


def test_a_choice_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="names colour, which the items do not have; known: title, text, brand"):
        choose_attributes(CATALOGUE, ("colour",), ())
    with pytest.raises(ValueError, match="both name brand"):
        choose_attributes(CATALOGUE, ("brand",), ("brand",))
    with pytest.raises(ValueError, match="no item of this data has any text"):
        choose_attributes(Catalogue(["a", "b"], ["", ""], ["", " "]), (), ())
