"""What every room stands on: settings, randomness, processes, the door to the weights, files, errors."""
