"""Mathematics of diffusion and flows. It imports torch, scipy for optimal coupling, and base modules of models/."""
