#!/usr/bin/env python3
"""`nmt serve` from a checkout, without installing the package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nmt.cli.main import main

if __name__ == "__main__":
    main(["serve", *sys.argv[1:]], prog_name="nmt")
