"""Floor 4: talks to a gateway, for programs and for foreman's own command line. `Foreman` is what one imports."""

from foreman.client.answer import Answer, Delta, ToolCall
from foreman.client.errors import ForemanError, UnreachableError
from foreman.client.foreman import Foreman
from foreman.client.jobs import Jobs
from foreman.client.reader import State
from foreman.client.turn import Turn

__all__ = ["Answer", "Delta", "Foreman", "ForemanError", "Jobs", "State", "ToolCall", "Turn", "UnreachableError"]
