"""Seals the committed row tables, after one was replaced by something else than `miclab study run`.

python -m scripts.seal
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from miclab.studies.seal import main

if __name__ == "__main__":
    argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0]).parse_args()
    sys.exit(main([str(Path(__file__).parents[1] / "studies" / "rows")]))
