"""What everything may use: errors, parameters, files, processes, progress."""
