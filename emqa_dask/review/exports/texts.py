"""Rows of text made of columns, without a call per row: numbers, quoted texts, lists, joined."""

import json
from collections.abc import Callable
from typing import BinaryIO
from xml.sax.saxutils import quoteattr

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike

Column = pa.Array | pa.ChunkedArray


def join_columns(*parts: str | Column) -> pa.Array:
    """One text per row: the columns and the texts between them; a null is empty."""
    joined = pc.binary_join_element_wise(*parts, "", null_handling="replace", null_replacement="")
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined


def format_numbers(values: Column | ArrayLike, null_text: str = "") -> pa.Array:
    """Numbers as the shortest texts that give them back; `null_text` for NaN, infinity and null."""
    array = values if isinstance(values, Column) else pa.array(values)
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    texts = pc.cast(array, pa.string())
    if pa.types.is_floating(array.type):
        texts = pc.if_else(pc.is_finite(array), texts, pa.scalar(null_text))
    return pc.fill_null(texts, null_text) if texts.null_count else texts


def quote_texts(texts: Column, quote: Callable[[str], str] = json.dumps, null_text: str = "null") -> pa.Array:
    """Each text as `quote` writes it; `null_text` for null. A text that occurs often is quoted once."""
    array = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    encoded = pc.dictionary_encode(array)
    quoted = pa.array([quote(text) for text in encoded.dictionary.to_pylist()], pa.string())
    return pc.fill_null(quoted.take(encoded.indices), null_text)


def quote_run_lengths(counts: Column) -> pa.Array:
    """COCO's compressed counts as JSON; null stays null."""
    array = counts.combine_chunks() if isinstance(counts, pa.ChunkedArray) else counts
    escaped = pc.replace_substring(array, "\\", "\\\\")
    return pc.binary_join_element_wise('"', escaped, '"', "")


def escape_attribute(text: str) -> str:
    """`text` as an XML attribute, in quotation marks; characters that XML cannot have become "?"."""
    return quoteattr("".join(c if c >= " " or c in "\t\n\r" else "?" for c in text), {"\n": "&#10;", "\r": "&#13;"})


def join_lists(texts: Column, offsets: ArrayLike, separator: str) -> pa.Array:
    """The texts `offsets[k]` to `offsets[k + 1]`, joined, for each k."""
    array = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    offset_array = pa.array(np.asarray(offsets), pa.int32())
    return pc.binary_join(pa.ListArray.from_arrays(offset_array, array), separator)


def write_texts(stream: BinaryIO, texts: pa.Array) -> None:
    """Write texts one after the other."""
    if not len(texts):
        return
    _, offset_buffer, data = texts.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)
    start, stop = offsets[texts.offset], offsets[texts.offset + len(texts)]
    if stop > start:
        stream.write(memoryview(data)[start:stop])
