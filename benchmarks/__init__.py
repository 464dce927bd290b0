"""What is compared with what, on this machine, in one interleaved run. The numbers are in README.md."""
