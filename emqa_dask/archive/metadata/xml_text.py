"""XML from foreign files, valid or nearly so, without entities or other files."""

from collections.abc import Iterator
from typing import Any

from lxml import etree

MAX_XML_BYTES = 64 * 2**20


def parse_xml(text: str | bytes) -> Any:
    """Root element of `text`, as far as it can be read; None when there is no element in it.

    Fragments and broken XML are read as far as they go. No entity but the five of XML and characters by number is
    resolved, and no other file is opened.
    """
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    start = data.find(b"<")
    if start < 0 or len(data) > MAX_XML_BYTES:
        return None
    data = data[start:].rstrip(b"\0 \r\n")
    parser = etree.XMLParser(
        recover=True,
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        encoding="utf-8" if isinstance(text, str) else None,
    )
    try:
        return etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError):
        return None


def name_element(element: Any) -> str:
    """Name of an element without its namespace; "" for comments."""
    return element.tag.rpartition("}")[2].rpartition(":")[2] if isinstance(element.tag, str) else ""


def find_elements(root: Any, name: str) -> Iterator[Any]:
    """All elements called `name`, in any namespace and upper or lower case, in the order of the text."""
    lower_name = name.lower()
    return (e for e in root.iter() if name_element(e).lower() == lower_name) if root is not None else iter(())


def find_text(root: Any, *names: str) -> str | None:
    """Text of the first element that is called one of `names` and is not empty; earlier names come first."""
    for name in names:
        for element in find_elements(root, name):
            text = (element.text or "").strip()
            if text:
                return text
    return None


def get_attribute(element: Any, *names: str) -> str | None:
    """First attribute of `element` that is called one of `names`, in any namespace and upper or lower case."""
    if element is None:
        return None
    values = {key.rpartition("}")[2].lower(): value for key, value in element.attrib.items()}
    return next((values[name.lower()] for name in names if values.get(name.lower())), None)
