"""Words of the explanations of all rows, as a small dictionary that the page searches."""

import pyarrow as pa
import pyarrow.compute as pc

MAX_TEXTS = 20_000  # different texts without their numbers; of some 50 sentences there are a few thousand
# A number, name or path makes a text that no other row has; the search finds names of files by themselves.
_TOKEN = r"[^\s;,()]*"
_END = rf"(?:{_TOKEN}[^\s;,().:])?"  # a full stop behind a number ends a sentence
VARIABLE = rf"{_TOKEN}(?:[/\\_]|[0-9]{{2}}|\.[^\s;,()]){_END}|\b[0-9]{_END}"  # "F1" stays a word
SENTENCE_END = r"[.;:]\s+"


class Explanations:
    """The texts that rows refer to by number; 0 is the empty one, and stands for those beyond MAX_TEXTS."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {"": 0}

    def encode(self, rows: pa.Table) -> pa.Array:
        """Number (n,) of the text of each of `rows` (tables.TRIAGE): explanation and because, without numbers."""
        texts = [rows[name].fill_null("").combine_chunks() for name in ("explanation", "because")]
        joined = pc.utf8_lower(pc.binary_join_element_wise(*texts, "; "))
        encoded = pc.dictionary_encode(pc.replace_substring_regex(joined, VARIABLE, "#"))
        numbers = pa.array([self._number(text) for text in encoded.dictionary.to_pylist()], pa.uint16())
        return numbers.take(encoded.indices)

    def _number(self, text: str) -> int:
        if text not in self.numbers and len(self.numbers) < MAX_TEXTS:
            self.numbers[text] = len(self.numbers)
        return self.numbers.get(text, 0)

    def describe(self) -> tuple[list[str], list[list[int]]]:
        """The different sentences, and for each number the positions of the sentences of its text."""
        array = pa.array(self.numbers, pa.string())
        split_texts = pc.split_pattern_regex(array, SENTENCE_END).to_pylist()
        positions: dict[str, int] = {}
        lists = []
        for sentences in split_texts:
            own = dict.fromkeys(sentence.strip(" #.") for sentence in sentences)
            lists.append([positions.setdefault(sentence, len(positions)) for sentence in own if sentence])
        return list(positions), lists
