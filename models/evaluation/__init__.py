"""What a trained model is worth: densities, classification by Bayes' rule, and the statistics beside each figure."""
