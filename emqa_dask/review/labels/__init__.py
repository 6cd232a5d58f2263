"""Labels of micrographs, read from the files of annotation tools."""
