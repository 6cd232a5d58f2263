"""Attributes and small datasets of HDF5 as Python values: texts, numbers, lists; JSON in attributes is parsed."""

import json
from typing import Any

import h5py
import numpy as np

MAX_JSON_CHARACTERS = 2**20  # of a text that is parsed as JSON
MAX_ATTRIBUTE_BYTES = 2**22  # of an attribute that is read
MAX_ATTRIBUTE_ELEMENTS = 4096  # of an array that is kept
MAX_SETTING_ELEMENTS = 64  # of a dataset that is a setting and no data


def convert_value(value: Any) -> Any:
    """A value of h5py as text, number, bool or list; None for empty and other ones."""
    if isinstance(value, bytes | np.bytes_):
        return bytes(value).decode("utf-8", "replace")
    if isinstance(value, str):
        return str(value)
    if isinstance(value, np.ndarray):
        if value.size == 0 or value.size > MAX_ATTRIBUTE_ELEMENTS:
            return None
        if value.dtype.kind == "S" and value.dtype.itemsize == 1 and value.size > 1:
            return value.tobytes().decode("utf-8", "replace").rstrip("\0")  # Imaris writes texts as single characters
        items = [convert_value(item) for item in value.reshape(-1).tolist()]
        return items[0] if len(items) == 1 else items
    if isinstance(value, np.generic):
        return convert_value(value.item())
    return value if isinstance(value, int | float | bool) else None


def read_attributes(node: h5py.HLObject) -> dict[str, Any]:
    """Attributes of a group or dataset; those that cannot be read are left out."""
    attributes = {}
    for name in node.attrs:
        value = read_attribute(node, name)
        if value is not None:
            attributes[name] = value
    return attributes


def read_attribute(node: h5py.HLObject, name: str) -> Any:
    """One attribute; None where it is absent or cannot be read."""
    try:
        attributes = node.attrs
        if name not in attributes:
            return None
        is_small = attributes.get_id(name).get_storage_size() <= MAX_ATTRIBUTE_BYTES
        return convert_value(attributes[name]) if is_small else None
    except (OSError, TypeError, ValueError, KeyError, RuntimeError, UnicodeError):
        return None


def read_text(node: h5py.HLObject, name: str) -> str:
    """One attribute as stripped text; "" where it is absent or no text."""
    value = read_attribute(node, name)
    value = value[0] if isinstance(value, list) and value else value
    return value.strip("\0 \t\r\n") if isinstance(value, str) else ""


def read_small_dataset(dataset: h5py.Dataset) -> Any:
    """The value of a dataset of a few elements; None for a larger one and one that cannot be read."""
    if dataset.shape is None or dataset.size > MAX_SETTING_ELEMENTS or dataset.size == 0:
        return None
    try:
        value = dataset[()]
        if read_text(dataset, "MATLAB_class") == "char":
            return "".join(map(chr, np.asarray(value).reshape(-1).tolist()))
        return convert_value(value)
    except (OSError, TypeError, ValueError, KeyError, RuntimeError, UnicodeError):
        return None


def parse_json(text: Any) -> Any:
    """The JSON value of `text`; None for any other text."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    if not isinstance(text, str) or len(text) > MAX_JSON_CHARACTERS or text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text.rstrip("\0 \r\n"))
    except (ValueError, RecursionError):
        return None


def normalise_name(name: str) -> str:
    """`name` in lower case with single underscores: "Pixel Size (nm)" becomes "pixel_size_nm"."""
    name_words = "".join(c if c.isalnum() else " " for c in str(name).replace("µ", "u").replace("Å", "A")).split()
    return "_".join(name_words).lower()
