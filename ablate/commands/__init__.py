"""One file a command: its options, then what it does. Heavy imports stay inside functions."""
