"""Many runs: tournaments, their schedule, and the command line."""
