"""An item's attributes as one text, and a task for each attribute: to say its value.

A text shows attributes, ``name: value`` a line. An attribute that is shown gives a reconstruction task, one that is
only predicted a generation task; the answer is the value and an end token. A value starts with a space everywhere, so
that it has the same tokens in both. A missing value is not shown and gives no task.

Shapes: N items, m attributes, S tasks, B items of a batch, C content tokens, A answer tokens.
Source: Liu et al. 2024 (STORE), table 2. Departure: answers do not repeat the attribute's name, which
the task's token says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pipeline_lib.backbones.text_tokenizer import TextTokenizer
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Catalogue


@dataclass(frozen=True)
class AttributeTasks:
    """``content``: N rows of tokens; ``answers``: S rows, sorted by item; ``kinds (S,)``: places among the attributes.

    ``by_item``: N rows of places among the S tasks.
    """

    content: Ragged
    answers: Ragged
    kinds: np.ndarray
    by_item: Ragged

    @cached_property
    def lengths(self) -> np.ndarray:
        """``(N,)``: an item's tokens in all, to sort batches by."""
        return self.content.lengths + np.diff(self.answers.offsets[self.by_item.offsets])

    def collate(self, items: np.ndarray) -> dict[str, Tensor]:
        """The batch of `backbones.dense_tokens.DenseTokenLM`: ``items (B,)`` and all of their tasks."""
        content, tasks = self.content.take(items), self.by_item.take(items)
        answers = self.answers.take(tasks.values)
        arrays = {"content": content.padded(0), "content_lengths": content.lengths, "text": tasks.row_of_value,
                  "kind": self.kinds[tasks.values], "answers": answers.padded(0), "answer_lengths": answers.lengths}
        return {name: torch.from_numpy(values).long() for name, values in arrays.items()}


def choose_attributes(catalogue: Catalogue, shown: Sequence[str], predicted: Sequence[str]) -> tuple[str, ...]:
    """The names that are shown; an empty ``shown`` means the title, else the text, and all attributes that are text.

    Raises:
        ValueError: if a name is unknown or both shown and predicted, or no item has a value of a shown one.
    """
    known = list(dict.fromkeys(["title", "text", *catalogue.attributes]))
    for name in (*shown, *predicted):
        if name not in known:
            raise ValueError(f"params: embed.dense names {name}, which the items do not have; "
                             f"known: {', '.join(known)}")
    both = set(shown) & set(predicted)
    if both:
        raise ValueError(f"params: embed.dense.shown and embed.dense.predicted both name {min(both)}; a predicted "
                         "attribute must not be shown")
    if not shown:
        whole = ["title"] if any(map(str.strip, attribute_values(catalogue, "title"))) else ["text"]
        texts = [name for name in catalogue.attributes if name not in ("title", "text") and _is_text(
            attribute_values(catalogue, name))]
        shown = [name for name in whole + texts if name not in predicted]
    if not any(value for name in shown for value in attribute_values(catalogue, name)):
        raise ValueError("embed.sources names dense, but no item of this data has any text: set embed.dense.shown to "
                         "attributes of the item file, or take a source that needs no text")
    return tuple(shown)


def attribute_values(catalogue: Catalogue, name: str) -> list[str]:
    """N texts, empty where there is no value, or no such attribute; lists are joined by commas, and lines."""
    own = {"title": catalogue.titles, "text": catalogue.texts, **catalogue.attributes}
    values = own.get(name, [""] * len(catalogue))
    joined = (", ".join(value) if isinstance(value, (list, tuple)) else value or "" for value in values)
    return [" ".join(text.split()) for text in joined]


def training_texts(catalogue: Catalogue, names: Sequence[str]) -> list[str]:
    """What a text tokenizer has to know: all names and values as they stand in content and answers."""
    return [f"{name}:" for name in names] + [
        f" {value}" for name in names for value in attribute_values(catalogue, name) if value]


def attribute_tasks(catalogue: Catalogue, shown: Sequence[str], predicted: Sequence[str], tokenizer: TextTokenizer,
                    max_tokens: int) -> AttributeTasks:
    """Tokenize every item's content and answers; kinds are places in ``(*shown, *predicted)``.

    Args:
        max_tokens: of a value, in the content and as an answer alike.
    """
    end, line = tokenizer.id_of(tokenizer.end), tokenizer.encode("\n")
    content: list[list[int]] = [[] for _ in range(len(catalogue))]
    answers: list[list[tuple[int, list[int]]]] = [[] for _ in range(len(catalogue))]
    for kind, name in enumerate((*shown, *predicted)):
        heading = tokenizer.encode(f"{name}:")
        tokens = tokenizer.encode_all([f" {value}" if value else "" for value in attribute_values(catalogue, name)])
        for item, value in enumerate(tokens):
            if value:
                answers[item].append((kind, [*value[:max_tokens], end]))
                content[item] += [*heading, *value[:max_tokens], *line] if kind < len(shown) else []
    tasks = [task for of_item in answers for task in of_item]
    offsets = np.concatenate([[0], np.cumsum([len(of_item) for of_item in answers])]).astype(np.int64)
    return AttributeTasks(Ragged.from_rows(content), Ragged.from_rows(value for _, value in tasks),
                          np.array([kind for kind, _ in tasks], dtype=np.int64),
                          Ragged(np.arange(len(tasks), dtype=np.int32), offsets))


def _is_text(values: Sequence[str]) -> bool:
    """Whether most values that are there have a letter, as no price or year has, and they are no ids or links.

    Those are one word with a digit, another one for each item: nothing but the item itself could be learnt from them.
    """
    filled = [value for value in values if value]
    lettered, numbered = (sum(any(map(has, value)) for value in filled) for has in (str.isalpha, str.isdigit))
    ids = len(set(filled)) == len(filled) and 2 * numbered > len(filled) and not any(" " in value for value in filled)
    return 2 * lettered > len(filled) and not ids
