"""One training of a model or an adapter: what transformers' arguments mean here, batches, memory, and the loop itself.

    rows ─ packing ─> steps ─ batches ─> micro-batches ─ trainer ─> weights, and checkpoints on the way
    training_args ─ training_arguments ─> Trainer's own; setup ─> what fits (memory), what is fast (acceleration)

The passes that fine-tune say what is trained and where the result goes; nothing here knows of passes.
"""
