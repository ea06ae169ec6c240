"""One file a verb, no logic: parse, call, print."""
