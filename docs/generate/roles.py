"""Roles for columns of tables: {column-definition} makes a column a target, {column} links to it."""

from docutils import nodes
from sphinx.util.docutils import SphinxRole


class ColumnDefinition(SphinxRole):
    """A column's name as code, which {column}`table.name` links to; the text is table.name."""

    def run(self):
        target = f"column-{self.text}"
        node = nodes.literal("", self.text.rpartition(".")[2], ids=[target], classes=["column-name"])
        self.env.domains.standard_domain.note_object("column", self.text, target, location=node)
        return [node], []


def register(app) -> None:
    """Add both roles to Sphinx."""
    app.add_object_type("column", "column", objname="column of a table")
    app.add_role("column-definition", ColumnDefinition())
