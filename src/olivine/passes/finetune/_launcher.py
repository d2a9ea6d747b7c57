"""Start the ranks of a job: `python -m olivine.passes.finetune._launcher JOB`, see `_launch`.

accelerate's launcher hands the processes to torch elastic, which ends all when one fails. It runs in a process of its
own because it takes over signals and the environment.
"""

import json
import os
import sys
from pathlib import Path

from olivine.work import Team


def main(job: Path) -> int:
    """Exit code 0 when every rank has ended well; else `ended.json` beside the job holds the exit code of each."""
    record = json.loads(job.read_text(encoding="utf-8"))
    machine, team = record["machine"], Team(**record["team"]) if record["team"] else None
    program = ["--module", "olivine.passes.finetune._rank", str(job)]
    ended = launch(machine["n_devices"], machine["n_cores"], program, team)
    if ended:
        (job.parent / "ended.json").write_text(json.dumps(ended), encoding="utf-8")
    return 1 if ended else 0


def launch(n_devices: int, n_cores: int, program: list[str], team: Team | None = None) -> dict[int, int]:
    """Run a program on every device until all have ended; gives the exit codes of those that failed, by rank.

    program: a script, or "--module" and its name, and arguments. Each process finds RANK, LOCAL_RANK and WORLD_SIZE in
    its environment, as torch.distributed reads them. team: the nodes that do so together, each with as many devices;
    the ranks of one begin with node * n_devices.
    """
    from accelerate.commands import launch as launcher
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ["PYTHONSAFEPATH"] = "1"  # a file in the current folder must not stand in for a library
    n_threads = os.environ.get("OMP_NUM_THREADS") or max(1, n_cores // n_devices)
    named: dict[str, object] = {"num_processes": n_devices, "num_machines": 1, "main_process_port": 0}
    if team is not None:
        named |= {"num_processes": n_devices * team.n_nodes, "num_machines": team.n_nodes, "machine_rank": team.node}
        named |= {"main_process_ip": team.address, "main_process_port": team.port, "rdzv_backend": "static"}
    named |= {"mixed_precision": "no", "dynamo_backend": "no", "num_cpu_threads_per_process": n_threads}
    options = [text for name, value in named.items() for text in (f"--{name}", str(value))]
    args = launcher.launch_command_parser().parse_args(["--multi_gpu", *options, *program])
    args.standalone = team is None  # a free port of this machine
    try:
        # not launch_command: that mixes in the defaults which `accelerate config` has written on this machine
        launcher.multi_gpu_launcher(args)
    except ChildFailedError as error:
        return {rank: failure.exitcode for rank, failure in error.failures.items()}
    return {}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
