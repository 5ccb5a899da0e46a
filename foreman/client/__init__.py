"""Floor 4: talks to a gateway, for programs and for foreman's own command line."""
