"""What an adapter carries beside PEFT's files, and in its record."""

# attribute of an adapter's record: how training kept the base (see nf4.Rounding)
ROUNDING = "base_rounding"
# Beside an adapter that was trained on a 4-bit base: the same record as JSON, for those who have the folder alone.
BASE_FILE = "trained_base.json"
# Beside an adapter that did not start at zero on a 4-bit base (LoftQ). By module: start_a, start_b are its factors
# before the first step, shift_a, shift_b (where they are) what was taken from the weight before it went into 4 bits.
START_FILE = "adapter_start.safetensors"
