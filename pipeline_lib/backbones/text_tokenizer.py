"""Text tokenizers of backbones: a pretrained one, or words alone; with entries added for codes; kept as JSON.

Nothing but JSON is read back (`TextTokenizer.from_json`), so a trained model needs no network and no pickle.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import WordLevelTrainer

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


def load_text_tokenizer(name_or_folder: str) -> TextTokenizer:
    """The tokenizer of a pretrained model, without remote code.

    Args:
        name_or_folder: a Hugging Face name or a local folder.

    Raises:
        ValueError: if there is none, it cannot be downloaded, or it names no padding or end token.
    """
    from transformers import AutoTokenizer  # seconds, which a word tokenizer does not need

    try:
        loaded = AutoTokenizer.from_pretrained(name_or_folder)
    except (OSError, ValueError) as error:
        raise ValueError(f"no text tokenizer at {name_or_folder} ({str(error).splitlines()[0]}); give a local folder "
                         "with tokenizer.json, or set pretrained to null to train one") from error
    if not loaded.is_fast or loaded.pad_token is None or loaded.eos_token is None:
        raise ValueError(f"the text tokenizer at {name_or_folder} has no tokenizer.json form, or no padding or end "
                         "token; take that of a T5")
    return TextTokenizer(Tokenizer.from_str(loaded.backend_tokenizer.to_str()), loaded.pad_token, loaded.eos_token)
