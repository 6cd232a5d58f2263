"""Imaging conditions from the metadata of files: units, dates, pixel sizes, the tags of vendors."""
