"""What every shape without experts answers about them."""

from __future__ import annotations


class Dense:
    """A shape whose parameters all work for every token. ``parameters`` is the shape's own."""

    @property
    def parameters(self) -> int:
        """All parameters."""
        raise NotImplementedError

    @property
    def active_parameters(self) -> int:
        """Parameters that work for a token: all of them."""
        return self.parameters

    @property
    def num_experts(self) -> int:
        """None."""
        return 0

    @property
    def sparse_layers(self) -> int:
        """Layers with experts: none."""
        return 0
