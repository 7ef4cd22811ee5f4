"""Run the speed benchmarks and write docs/performance.md: ``python -m benchmarks``."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from benchmarks import evaluation, overhead, scale, search, tabular

PAGE = Path("docs/performance.md")

HEAD = """# Performance

Measured by `make bench` on {cores} cores ({machine}), torch {torch}, one thread a process. Ratios are of times measured
in turns in one run: median, and from the smallest to the largest round. Absolute times are this machine's.
"""


def main() -> None:
    """Run the benchmarks, print the results, and write the page."""
    sections = [module.measure() for module in (evaluation, search, overhead, scale, tabular)]
    for section in sections:
        section.print()
    cores = len(os.sched_getaffinity(0))
    head = HEAD.format(cores=cores, machine=platform.machine(), torch=torch.__version__)
    PAGE.write_text("\n\n".join([head.strip(), *(section.markdown() for section in sections)]) + "\n")
    print(PAGE)


if __name__ == "__main__":
    main()
