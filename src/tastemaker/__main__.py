"""`python -m tastemaker`, for torchrun and accelerate launch."""

import sys

from tastemaker.cli import main

sys.exit(main())
