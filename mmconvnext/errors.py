"""The base of errors that tell the user what to mend."""


class UserError(Exception):
    """A mistake in a command, a config or a file, not in the code.

    The message names the offender, the value, the choices and the fix, and is all that the tools
    print of it.
    """


class ConfigError(UserError, ValueError):
    """A config that cannot be used as it is."""
