"""`headfields doctor`."""

import platform

import torch

from headfields.cli.errors import CommandError
from headfields.metrics.image import lpips_installed
from headfields.ops import self_check as checks
from headfields.ops.dispatch import backends
from headfields.runs.folder import versions


def doctor() -> None:
    """Prints versions and backends, runs every self-check, and raises if one fails."""
    print(", ".join(f"{name} {version}" for name, version in versions().items()))
    print(f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads")
    print(*backends(), sep="\n")
    print(f"lpips  {'installed' if lpips_installed() else 'not installed (pip install headfields[lpips])'}")
    failed = []
    for result in checks.run():
        print(result)
        if not result.passed:
            failed.append(result.name)
    if failed:
        raise CommandError(f"{len(failed)} self-check(s) failed: {', '.join(failed)}")
