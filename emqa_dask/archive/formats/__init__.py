"""Readers, one module per family of file formats: a file -> its frames."""
