"""The command line: parses, calls, prints; the only room that prints or exits."""
