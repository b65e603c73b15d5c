"""edge.sdk: the command line. It parses, calls the packages below it, and shows what they answer; nothing more."""
