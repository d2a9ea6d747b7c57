"""Threads of torch beside busy processes: steps of training, by how its threads wait and how many they are.

    python benchmarks/busy.py [--repeats 3] [--steps 6] [--busy 0,1,2] [--smoke]

A decoder of SmolLM2's widths with four layers, 8 rows of 60 tokens a step, forwards and backwards in float32. Each
setting is a process of its own, in turns with the others, beside so many processes that do nothing but count; wall and
CPU seconds a step are medians. "spinning" is what libgomp does when nobody says otherwise, "1,000 times" (about
0.02 ms) what olivine's workers do, "passive" is OMP_WAIT_POLICY=PASSIVE. Writes benchmarks/results/busy.json; a load
that is not ours is noted.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from _machine import last_json, median, write

STEPS = """
import json, sys, time
import torch
from transformers import LlamaConfig, LlamaForCausalLM
n_steps = int(sys.argv[1])
torch.manual_seed(0)
sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
model = LlamaForCausalLM(LlamaConfig(vocab_size=8192, num_hidden_layers=4, **sizes))
rows = torch.randint(0, 8192, (8, 60))
for step in range(n_steps + 2):
    if step == 2:
        begun, cpu = time.perf_counter(), time.process_time()
    model(input_ids=rows, labels=rows).loss.backward()
    model.zero_grad()
spent = {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - cpu}
print(json.dumps({key: value / n_steps for key, value in spent.items()}))
"""
SETTINGS = {
    "spinning": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spinning 1,000 times": {"GOMP_SPINCOUNT": "1000"},
    "spinning 10,000 times": {"GOMP_SPINCOUNT": "10000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
LEFT_OUT = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@contextmanager
def busy(n_processes: int) -> Iterator[None]:
    """So many processes that keep a core busy each."""
    counting = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n_processes)]
    try:
        yield
    finally:
        for process in counting:
            process.kill()
            process.wait()


def spent(setting: dict[str, str], n_steps: int) -> dict:
    """Seconds of a step, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in LEFT_OUT} | setting
    command = [sys.executable, "-c", STEPS, str(n_steps)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return last_json(done.stdout)


def main() -> None:
    """Measure what the flags ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--busy", default="0,1,2")
    parser.add_argument("--smoke", action="store_true", help="one short run of each; nothing is written")
    given = parser.parse_args()
    if given.smoke:
        given.repeats, given.steps, given.busy = 1, 1, "1"
    result: dict = {"load_before": os.getloadavg()[0], "beside": {}}
    for n_busy in map(int, given.busy.split(",")):
        runs: dict[str, list[dict]] = {name: [] for name in SETTINGS}
        with busy(n_busy):
            for _ in range(given.repeats):
                for name, setting in SETTINGS.items():
                    runs[name].append(spent(setting, given.steps))
        rows = {
            name: {key: median([one[key] for one in of_name]) for key in ("seconds", "cpu_seconds")}
            for name, of_name in runs.items()
        }
        result["beside"][f"{n_busy} busy processes"] = rows
        print(json.dumps({n_busy: rows}, indent=2), flush=True)
        if not given.smoke:
            write("busy", result)


if __name__ == "__main__":
    main()
