"""What is missing of runs and suites costs: FLOP counted, rates of this device, hours foretold."""
