"""Pixel sizes from burnt-in scale bars: bars, the text beside them, and what it says."""
