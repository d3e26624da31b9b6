"""The subcommands of ``danzar``, and the command line that chooses among them."""
