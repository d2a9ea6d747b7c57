"""Passes that make what a runtime loads."""
