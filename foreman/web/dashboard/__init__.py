"""The page an operator opens: rendered on the server, readable without JavaScript."""
