"""When to send and when to send again: pure functions of clock readings, random numbers and headers."""
