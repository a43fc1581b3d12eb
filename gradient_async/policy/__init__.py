"""When to send and when to send again: pure functions of clock readings, dice and headers."""
