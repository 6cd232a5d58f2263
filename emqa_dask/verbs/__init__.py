"""Every verb of the command line as a function of Python, with the same options and the same work behind it."""
