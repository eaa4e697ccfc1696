"""Makes the modules beside this file (`tiny_checkpoint`, ...) importable from every test."""
