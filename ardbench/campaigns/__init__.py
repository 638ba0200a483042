"""Many runs that make a table: suites, their graph, the pools that work on it, and how it stands. Suites are torch-free."""
