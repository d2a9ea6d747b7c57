"""Sizes that decide what an export takes: a plan counts with them before anything is made."""

PIECE_BYTES = 1 << 27  # weights of a piece of a graph, see `olivine.exporting.pieces`
