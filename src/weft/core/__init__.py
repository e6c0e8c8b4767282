"""The ground floor: what every other floor may use, and that uses none of them (no torch here)."""
