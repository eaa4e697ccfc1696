"""What each command of the command line does; `secateur.cli` parses, these modules call and print."""
