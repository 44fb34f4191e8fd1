"""`python -m headfields.cli`."""

import sys

from headfields.cli import main

sys.exit(main())
