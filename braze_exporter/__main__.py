"""`python -m braze_exporter`: the command line."""

import sys

from braze_exporter.cli import main

sys.exit(main())
