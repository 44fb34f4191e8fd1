"""`python -m headfields` is the command `headfields`."""

import sys

from headfields.cli import main

sys.exit(main())
