"""`python -m tests.pretend_cuda PROGRAM...` runs programs on the pretend device and prints their counts as JSON."""

from tests.pretend_cuda.programs import LONG_PROGRAMS, PROGRAMS  # isort: skip, loads the guard before torch

import json
import sys

print(json.dumps({name: (PROGRAMS | LONG_PROGRAMS)[name]() for name in sys.argv[1:] or PROGRAMS}))
