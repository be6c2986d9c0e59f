"""What can be wrong with a checkpoint; known without importing torch."""


class CheckpointError(RuntimeError):
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
