"""Data sets that scripts derive theirs from."""
