"""``python -m gpu_prebake``."""

from gpu_prebake.cli import main

main()
