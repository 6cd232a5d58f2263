"""Where two rooms meet: read, call one function of a room, write; run.run() strings the steps together."""
