"""Programs that show the suite from outside: they speak to it as a user would, by commands and gRPC."""
