"""Run the command line as `python -m braze_exporter`."""

import sys

from braze_exporter.cli import main

sys.exit(main())
