"""Colours of image files: intensities from palettes and colour maps, annotations, and luma of what remains."""
