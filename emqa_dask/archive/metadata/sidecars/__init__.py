"""Readers of the files that microscopes write beside an image, one module per writer."""
