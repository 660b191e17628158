"""Mathematics of diffusion and flows. Imports only torch and the base modules errors, randomness and ranges."""
