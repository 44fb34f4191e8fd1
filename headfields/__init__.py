"""headfields: differentiable head-avatar primitives for PyTorch."""
