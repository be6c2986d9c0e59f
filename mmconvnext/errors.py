"""Every error that this package raises for a user to read; imports nothing."""


class UserError(Exception):
    """A mistake in a command, a config or a file, not in the code.

    The message names the offender, the value, the choices and the fix, and is all that the command
    prints of it.
    """


class ConfigError(UserError, ValueError):
    """A config that cannot be used as it is."""


class DataError(UserError):
    """Data that is absent or is not what the config says."""


class ShapesError(DataError, ValueError):
    """An argument or a folder that *shapes* cannot be written with."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that cannot be read."""


class MissingCheckpointError(CheckpointError, FileNotFoundError):
    """A checkpoint that is not there."""


class UnreadableCheckpointError(CheckpointError):
    """A file that is no checkpoint, not the whole of one, or for a device that is not there."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint that carries something else than tensors, numbers and settings."""


class DownloadError(CheckpointError):
    """A file that did not arrive, or not the one that was asked for."""


class SourceError(CheckpointError):
    """The name of a source that is a mistake: no other source makes up for it."""


class WeightsError(UserError, ValueError):
    """A checkpoint that does not fit the model."""


class QuantizationError(UserError):
    """A detector that loses more AP in lower precision than is allowed."""


class MissingMMCVError(UserError, ImportError):
    """Neither mmcv nor mmcv-lite is installed."""

    def __init__(self) -> None:
        super().__init__(
            "mmconvnext needs mmcv, and neither mmcv nor mmcv-lite is installed. Nothing has to be "
            "compiled: pip install mmcv-lite==2.1.0"
        )


class MissingOperatorError(UserError, RuntimeError):
    """An operator of mmcv was called that has no kernel here; the message says how to get it."""

    def __init__(self, reason: str):
        super().__init__(
            f"{reason} To get it, install compiled mmcv: pip uninstall -y mmcv-lite && pip install "
            "'setuptools<81' wheel ninja && MMCV_WITH_OPS=1 pip install --no-build-isolation "
            "--no-binary mmcv mmcv==2.1.0 (about 17 minutes on two cores; where torch's headers "
            "ask for C++20, unpack the source distribution and replace c++17 by c++20 in its "
            "setup.py first)"
        )
