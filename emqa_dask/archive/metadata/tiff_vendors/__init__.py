"""What each vendor's tags of a TIFF file say: a module per vendor, and in `readers` the list of them."""
