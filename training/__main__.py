"""`python -m echo4o.training run RECIPE ...`, for torchrun and accelerate launch."""

import sys

from echo4o.cli import main
from echo4o.ending import ending

with ending():
    main(["train", *sys.argv[1:]])
