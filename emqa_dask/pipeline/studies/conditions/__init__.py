"""Conditions: the true F1 of a detector over dose, defocus and pixel size, and a surface through it."""
