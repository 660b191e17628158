"""Pictures, plots and animations. Each file draws one kind."""
