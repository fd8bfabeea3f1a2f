"""The demo's command line: `python -m lab.demo`, which `make demo` runs. It has no options."""

from __future__ import annotations

import argparse
import sys

from lab.demo import demo

if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m lab.demo", description="Runs the demo in a lab session; needs root.").parse_args()
    sys.exit(demo.main())
