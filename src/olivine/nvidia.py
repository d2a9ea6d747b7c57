"""What NVIDIA's driver says of its GPUs, through the tool that comes with it."""

import shutil
import subprocess


def driver_says(*arguments: str) -> list[str]:
    """The lines that nvidia-smi answers; none where it is not here."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=False).stdout.splitlines()


def used_bytes() -> int:
    """Memory of all GPUs that is in use, by whichever process; 0 where the driver does not say."""
    told = (line.strip() for line in driver_says("--query-gpu=memory.used", "--format=csv,noheader,nounits"))
    return sum(int(size) * 2**20 for size in told if size.isdigit())
