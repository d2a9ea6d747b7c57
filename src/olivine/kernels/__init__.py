"""Shared maths. The only layer whose files import numpy and torch at their top; the parent process never comes here."""
