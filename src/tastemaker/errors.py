"""What may go wrong that is no bug. Imports nothing, so that a wrong flag costs no torch."""


class TastemakerError(Exception):
    """An error the user can mend. The message says what, where (file, line, field) and the remedy."""


class StopTraining(Exception):
    """A method asks for an orderly end (a KL stop, say). The run is saved as it stands."""
