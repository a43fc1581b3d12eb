"""The soak: thousands of streams with faults and cancellations, and nothing left over at the end."""
