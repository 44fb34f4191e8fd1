"""How arguments that several subcommands have are shown in help texts."""

from pathlib import Path
from typing import Annotated

import tyro

Capture = Annotated[Path, tyro.conf.arg(metavar="DIR")]
OtherCapture = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
OtherFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
Number = tyro.conf.arg(metavar="N")
Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
