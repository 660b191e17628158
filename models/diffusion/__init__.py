"""The mathematics of diffusion and flows. Imports torch and the ground only."""
