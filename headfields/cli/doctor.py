"""`headfields doctor`: versions, backends and self-checks of the kernels."""

from headfields.cli.errors import CommandError


def doctor() -> None:
    """Print versions and backends, and check every kernel against its reference.

    Exits with 1 if a kernel gives a wrong answer or cannot run.
    """
    import platform

    import torch

    from headfields.apps import self_check
    from headfields.metrics.image import lpips_installed
    from headfields.ops.dispatch import backends
    from headfields.runs.folder import versions

    print(", ".join(f"{name} {version}" for name, version in versions().items()))
    print(f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads")
    print(*backends(), sep="\n")
    print(f"lpips  {'installed' if lpips_installed() else 'not installed (pip install headfields[lpips])'}")
    failed = []
    for result in self_check.run():
        print(result)
        if not result.passed:
            failed.append(result.name)
    if failed:
        raise CommandError(f"{len(failed)} self-check(s) failed: {', '.join(failed)}")
