"""What is measured in a process of its own: each program reads JSON lines and answers them."""
