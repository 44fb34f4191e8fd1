"""ffmpeg, where it is installed: the package imageio-ffmpeg, which brings the program."""

from typing import Any

__all__ = ["ffmpeg"]


def ffmpeg() -> Any:
    """The module `imageio_ffmpeg`, after a look that it finds a program.

    Raises:
        ModuleNotFoundError: there is none.
    """
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise ModuleNotFoundError(f"no ffmpeg ({error}); install it: pip install 'headfields[video]'") from error
    return imageio_ffmpeg
