"""Stopping a run: the button sets a flag, and whoever works for long asks for it."""

_interrupted = False


class InterruptProcessingException(BaseException):
    """The user pressed the button."""


def interrupt_current_processing(value: bool = True) -> None:
    """Stop, as the button does."""
    global _interrupted
    _interrupted = value


def throw_exception_if_processing_interrupted() -> None:
    """End the run if the button was pressed."""
    global _interrupted
    if _interrupted:
        _interrupted = False
        raise InterruptProcessingException
