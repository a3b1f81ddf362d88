import json

import pytest
from transformers import PreTrainedTokenizerFast

from pipeline_lib.backbones.text_tokenizer import (
    TextTokenizer, load_text_tokenizer, train_byte_tokenizer, train_word_tokenizer,
)

NAMES = [f"<{entity}-{level}-{code}>" for entity in ("item", "user") for level in range(3) for code in range(12)]


@pytest.fixture
def tokenizer():
    return train_word_tokenizer(["a user likes this", "what will this user like?"])


def test_words_and_punctuation_are_the_vocabulary(tokenizer):
    vocabulary = tokenizer.backend.get_vocab()
    assert {vocabulary.pop(name) for name in ("<pad>", "</s>", "<unk>")} == {0, 1, 2}
    assert set(vocabulary) == {"a", "user", "likes", "this", "what", "will", "like", "?"}
    assert tokenizer.encode("What user?") == [tokenizer.id_of(word) for word in ("what", "user", "?")]
    assert tokenizer.encode("nobody") == [2]


def test_added_names_are_one_id_each_and_follow_each_other(tokenizer):
    more = tokenizer.with_tokens(NAMES)
    assert more.size == tokenizer.size + len(NAMES)
    assert [more.id_of(name) for name in NAMES] == list(range(tokenizer.size, more.size))
    assert [more.encode(name) for name in NAMES] == [[more.id_of(name)] for name in NAMES]
    assert more.encode("".join(NAMES)) == [more.id_of(name) for name in NAMES]


def test_adding_leaves_the_first_tokenizer_and_the_text_alone(tokenizer):
    size, text = tokenizer.size, tokenizer.encode("what will this user like?")
    assert tokenizer.with_tokens(NAMES).encode("what will this user like?") == text
    assert tokenizer.size == size


def test_json_brings_everything_back(tokenizer):
    more = tokenizer.with_tokens(NAMES)
    again = TextTokenizer.from_json(json.loads(json.dumps(more.to_json())))
    text = "this user <user-0-3><user-1-11> likes <item-2-0>?"
    assert again.encode(text) == more.encode(text)
    assert (again.size, again.pad, again.end) == (more.size, more.pad, more.end)


def test_a_name_that_is_there_already_is_refused(tokenizer):
    with pytest.raises(ValueError, match="token likes is in the vocabulary already"):
        tokenizer.with_tokens(["<new>", "likes"])
    with pytest.raises(ValueError, match="token <new> is .* given twice"):
        tokenizer.with_tokens(["<new>", "<new>"])


def test_an_unknown_token_is_named(tokenizer):
    with pytest.raises(ValueError, match="no token <item-9-9>"):
        tokenizer.id_of("<item-9-9>")


def test_a_pretrained_tokenizer_is_read_from_a_folder(tokenizer, tmp_path):
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, pad_token="<pad>", eos_token="</s>")
    wrapped.save_pretrained(tmp_path)
    loaded = load_text_tokenizer(str(tmp_path))
    assert loaded.encode("this user likes?") == tokenizer.encode("this user likes?")
    assert (loaded.pad, loaded.end, loaded.size) == ("<pad>", "</s>", tokenizer.size)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no text tokenizer at .*; give a local folder"):
        load_text_tokenizer(str(tmp_path))


def test_a_tokenizer_without_padding_pads_with_its_end(tokenizer, tmp_path):
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, eos_token="</s>").save_pretrained(tmp_path)
    loaded = load_text_tokenizer(str(tmp_path))
    assert (loaded.pad, loaded.end) == ("</s>", "</s>")


def test_a_tokenizer_without_an_end_is_refused(tokenizer, tmp_path):
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, pad_token="<pad>").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no tokenizer.json form, or no end token"):
        load_text_tokenizer(str(tmp_path))


WORDS = [f"{colour} tent {size}" for colour in ("red", "blue", "grün") for size in ("small", "large")] * 3


def test_pieces_that_come_often_become_one_token():
    pieces = train_byte_tokenizer(WORDS, 300)
    assert pieces.size <= 300 and len(pieces.encode(" tent")) == 1 < len(pieces.encode(" tnet"))
    assert pieces.decode(pieces.encode("red tent")) == "red tent"


def test_any_text_comes_back_from_its_bytes_and_the_end_does_not_show():
    pieces = train_byte_tokenizer(WORDS, 270)
    for text in ("Größe 漢字 \U0001f484\n\t x", "", "  two  spaces "):
        assert pieces.decode([*pieces.encode(text), pieces.id_of(pieces.end)]) == text
    assert (pieces.id_of(pieces.pad), pieces.id_of(pieces.end)) == (0, 1)


def test_equal_texts_give_equal_pieces_and_json_brings_them_back():
    one, other = (train_byte_tokenizer(WORDS, 290) for _ in range(2))
    assert one.to_json() == other.to_json()
    again = TextTokenizer.from_json(json.loads(json.dumps(one.to_json())))
    assert again.encode_all(WORDS) == [one.encode(text) for text in WORDS]
    assert again.with_tokens(["<code>"]).encode("red<code>tent") == [
        *one.encode("red"), one.size, *one.encode("tent")]


def test_a_vocabulary_without_room_for_all_bytes_is_refused():
    with pytest.raises(ValueError, match="vocabulary is 200, but bytes alone need 258"):
        train_byte_tokenizer(WORDS, 200)
