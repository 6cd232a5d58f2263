"""Rows of text made of columns, without a call per row: numbers, quoted texts, lists, joined."""

import json
from collections.abc import Callable
from typing import BinaryIO, TypeAlias
from xml.sax.saxutils import quoteattr

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

MAX_DIGITS = 20  # of a whole number of 64 bits, with its sign
Column: TypeAlias = pa.Array | pa.ChunkedArray


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


def join_integers(rows: NDArray, offsets: NDArray, form: tuple[str, str, str, str]) -> pa.Array:
    """The rows (m, k) of whole numbers `offsets[j]` to `offsets[j + 1]` as one text, for each j.

    `form`: what stands before a row, between its numbers, behind it, and between rows; ("[", ",", "]", ", ") gives
    "[1,2], [3,4]".
    """
    pieces = [np.frombuffer(piece.encode(), np.uint8) for piece in form]
    n_bytes = len(rows) * (sum(map(len, pieces)) + rows.shape[1] * (MAX_DIGITS + len(pieces[1])))
    arguments = (np.asarray(rows, np.int64), np.asarray(offsets, np.int64), *pieces, n_bytes)
    text, ends = _join_integers(*arguments)
    buffers = [None, pa.py_buffer(np.concatenate([[0], ends]).astype(np.int32)), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.string(), len(ends), buffers)


@numba.njit(nogil=True, cache=True)
def _join_integers(
    rows: NDArray, offsets: NDArray, head: NDArray, comma: NDArray, tail: NDArray, separator: NDArray, n_bytes: int
) -> tuple[NDArray, NDArray]:
    """Characters, and where the text of each list ends."""
    text = np.empty(n_bytes, np.uint8)
    ends = np.empty(len(offsets) - 1, np.int64)
    m = 0
    for j in range(len(ends)):
        for i in range(offsets[j], offsets[j + 1]):
            m = _append(text, m, separator if i > offsets[j] else separator[:0])
            m = _append(text, m, head)
            for k in range(rows.shape[1]):
                m = _append(text, m, comma if k else comma[:0])
                m = _append_integer(text, m, rows[i, k])
            m = _append(text, m, tail)
        ends[j] = m
    return text[:m].copy(), ends


@numba.njit(nogil=True, cache=True)
def _append(text: NDArray, m: int, piece: NDArray) -> int:
    for i in range(len(piece)):
        text[m + i] = piece[i]
    return m + len(piece)


@numba.njit(nogil=True, cache=True)
def _append_integer(text: NDArray, m: int, value: int) -> int:
    if value < 0:
        text[m] = 45  # minus sign
        m += 1
        value = -value
    n_digits = 1
    limit = 10
    while value >= limit:
        n_digits += 1
        limit *= 10
    for i in range(n_digits):
        text[m + n_digits - 1 - i] = 48 + value % 10
        value //= 10
    return m + n_digits


def write_texts(stream: BinaryIO, texts: pa.Array) -> None:
    """Write texts one after the other."""
    if not len(texts):
        return
    _, offset_buffer, data = texts.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)
    start, stop = offsets[texts.offset], offsets[texts.offset + len(texts)]
    if stop > start:
        stream.write(memoryview(data)[start:stop])
