"""Checks of foreign files: what must not be opened, and which pixels are damaged or absent."""
