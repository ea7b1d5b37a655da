"""Run HRM-Bench: `python run_benchmarks.py --suite tiny`. See `--help`."""

import sys

from harness.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
