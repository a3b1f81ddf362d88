import json

import pytest
from transformers import PreTrainedTokenizerFast

from pipeline_lib.backbones.text_tokenizer import TextTokenizer, load_text_tokenizer, train_word_tokenizer

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
