"""HDF5 files of all layouts: which arrays are images, their axes, pixel sizes and imaging conditions."""
