"""Where the evidence is: maps, and the checks that they have to pass."""
