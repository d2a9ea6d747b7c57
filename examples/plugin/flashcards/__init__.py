"""Flashcards for olivine."""
