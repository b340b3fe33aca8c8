"""Time of `miclab --help` and of `import miclab`, in fresh processes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "miclab --help": ["-m", "miclab", "--help"],
    "miclab train unimodal --help": ["-m", "miclab", "train", "unimodal", "--help"],
    "import miclab": ["-c", "import miclab, sys; assert 'torch' not in sys.modules"],
}


def main() -> None:
    """Prints the median of seven starts of each."""
    for name, arguments in COMMANDS.items():
        times = []
        for _ in range(7):
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            times.append(time.perf_counter() - start)
        print(f"{name:<30} {statistics.median(times):.2f} s (aim for --help: under 0.5)")


if __name__ == "__main__":
    main()
