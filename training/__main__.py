"""`python -m echo4o.training run RECIPE ...`, for torchrun and accelerate launch."""

import sys

from echo4o.cli import main

main(["train", *sys.argv[1:]])
