"""What ardbench does, as functions: the command line calls these and prints, a notebook calls them and goes on."""
