"""The commands: they make the library's parts from configs, run them, and write the results."""
