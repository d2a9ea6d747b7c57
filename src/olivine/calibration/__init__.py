"""What calibration tokens tell of a model, and what is done to its weights by it; one layer in memory at a time.

    tokens ─ layer_stream ─> statistics of each layer's inputs ─┬─ importances ─> searched scales, weights for 8 bits
                                                                ├─ folding ─────> AWQ's scales inside the float model
                                                                └─ gptq_layers ─> codes, each layer after quantized ones

`decoder` says what a model's linear layers are, `eight_bits` which of them deserve more bits. Passes that quantize and
passes that export use these modules alike.
"""
