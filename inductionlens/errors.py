"""The one exception for input that cannot be used."""


class InputError(ValueError):
    """Raised when an argument, file or model cannot be used as given.

    The message is one sentence that names the argument, the rule, the value and, where there is one, a way out.
    The command line prints it and exits with code 2.
    """


#: Said after Ctrl-C.
INTERRUPTED = "interrupted; no half-written file is left."
