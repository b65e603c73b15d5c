"""One module a command, each imported only when it is asked for; heavy imports stay inside the functions."""
