"""`python -m miclab`."""

import sys

from miclab.cli import main

sys.exit(main())
