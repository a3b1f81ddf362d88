"""Text tokenizers of backbones: a pretrained one, words alone, or pieces of words (byte-level BPE); with entries added
for codes; kept as JSON.

Nothing but JSON is read back (`TextTokenizer.from_json`), so a trained model needs no network and no pickle.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE, WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from tokenizers.trainers import BpeTrainer, WordLevelTrainer

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"


@dataclass(frozen=True)
class TextTokenizer:
    """``pad`` and ``end`` name the tokens that pad and that close a text."""

    backend: Tokenizer
    pad: str = PAD
    end: str = END

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "TextTokenizer":
        return cls(Tokenizer.from_str(tree["tokenizer"]), tree["pad"], tree["end"])

    def to_json(self) -> dict[str, str]:
        return {"tokenizer": self.backend.to_str(), "pad": self.pad, "end": self.end}

    @property
    def size(self) -> int:
        """Rows that an embedding table needs."""
        return 1 + max(self.backend.get_vocab(with_added_tokens=True).values())

    def encode(self, text: str) -> list[int]:
        """Token ids, without an end."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """The same for many texts, in parallel."""
        return [found.ids for found in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        return self.backend.decode(list(ids), skip_special_tokens=True)

    def id_of(self, token: str) -> int:
        """The id of one vocabulary entry.

        Raises:
            ValueError: if there is no such entry.
        """
        found = self.backend.token_to_id(token)
        if found is None:
            raise ValueError(f"the text tokenizer has no token {token}; were codes of other sizes made since it was "
                             "saved? re-run finetune")
        return found

    def with_tokens(self, names: Sequence[str]) -> "TextTokenizer":
        """A tokenizer with an entry more for each name, ids following each other from ``size``.

        Raises:
            ValueError: if a name is in the vocabulary already, or comes twice.
        """
        counts = Counter([*self.backend.get_vocab(with_added_tokens=True), *names])
        twice = [name for name in names if counts[name] > 1]
        if twice:
            raise ValueError(f"token {twice[0]} is in the vocabulary already, or given twice; give it another name")
        backend = Tokenizer.from_str(self.backend.to_str())
        backend.add_tokens([AddedToken(name, normalized=False) for name in names])
        return TextTokenizer(backend, self.pad, self.end)


def train_word_tokenizer(texts: Sequence[str]) -> TextTokenizer:
    """A tokenizer whose entries are the words and punctuation of ``texts``, in lower case; others are unknown."""
    backend = Tokenizer(WordLevel(unk_token=UNKNOWN))
    backend.normalizer, backend.pre_tokenizer = Lowercase(), Whitespace()
    trainer = WordLevelTrainer(special_tokens=[PAD, END, UNKNOWN], show_progress=False)
    backend.train_from_iterator(texts, trainer)
    return TextTokenizer(backend)


def train_byte_tokenizer(texts: Sequence[str], size: int) -> TextTokenizer:
    """Byte-level BPE with at most ``size`` entries: any text can be encoded, and decoded to itself.

    Equal texts give an equal tokenizer. Source: Radford et al. 2019 (GPT-2), section 2.2.

    Raises:
        ValueError: if there is no room for the 256 bytes.
    """
    alphabet, special = sorted(ByteLevel.alphabet()), [PAD, END]
    if size < len(alphabet) + len(special):
        raise ValueError(f"params: backbone.vocabulary is {size}, but bytes alone need {len(alphabet) + len(special)}; "
                         "raise it")
    backend = Tokenizer(BPE())
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    trainer = BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    return TextTokenizer(backend)


def load_text_tokenizer(name_or_folder: str) -> TextTokenizer:
    """The tokenizer of a pretrained model, without remote code; one that has no padding token pads with its end.

    Args:
        name_or_folder: a Hugging Face name or a local folder.

    Raises:
        ValueError: if there is none, it cannot be downloaded, or it names no end token.
    """
    from transformers import AutoTokenizer  # seconds, which a word tokenizer does not need

    try:
        loaded = AutoTokenizer.from_pretrained(name_or_folder)
    except (OSError, ValueError) as error:
        raise ValueError(f"no text tokenizer at {name_or_folder} ({str(error).splitlines()[0]}); give a local folder "
                         "with tokenizer.json, or set pretrained to null to train one") from error
    if not loaded.is_fast or loaded.eos_token is None:
        raise ValueError(f"the text tokenizer at {name_or_folder} has no tokenizer.json form, or no end token; take "
                         "that of a T5, or of an OPT")
    pad = loaded.pad_token or loaded.eos_token
    return TextTokenizer(Tokenizer.from_str(loaded.backend_tokenizer.to_str()), pad, loaded.eos_token)
