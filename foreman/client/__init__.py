"""Floor 4: talks to a gateway, for programs and for foreman's own command line. `Foreman` is what one imports."""

from foreman.client.answer import Answer, Delta, ToolCall
from foreman.client.chat import Chat
from foreman.client.errors import ForemanError, UnreachableError
from foreman.client.foreman import Foreman
from foreman.client.jobs import Jobs
from foreman.client.reader import State

__all__ = ["Answer", "Chat", "Delta", "Foreman", "ForemanError", "Jobs", "State", "ToolCall", "UnreachableError"]
